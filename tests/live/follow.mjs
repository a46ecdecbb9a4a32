// Follows a stream with an EventSource of npm and prints a line of JSON for each thing that it tells.
// Arguments: the folder of the packages, the package's name, the URL, the event types to listen for beside `message`.
import { createRequire } from "node:module";

const [modules, name, url, ...types] = process.argv.slice(2);
const loaded = createRequire(`${modules}/`)(name);
const EventSource = loaded.EventSource ?? loaded; // eventsource 3 exports it by name, 2 as the module itself

const source = new EventSource(url);
for (const type of ["open", "error", "message", ...types]) {
  source.addEventListener(type, ({ type, data = null, lastEventId: id = null }) => {
    const at = performance.timeOrigin + performance.now();
    console.log(JSON.stringify({ type, data, id, state: source.readyState, at }));
  });
}

// Runs the browser client's parser. Argument: its module. Standard input: streams in base64, a JSON list. Standard output: for each
// stream, the results at every cut, without repetitions.
import { readFileSync } from "node:fs";

const { EventParser } = await import(process.argv[2]);

function run(bytes, cuts) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const events = [];
  for (let index = 0; index <= cuts.length; index++) {
    const part = bytes.subarray(cuts[index - 1] ?? 0, cuts[index] ?? bytes.length);
    events.push(...parser.push(decoder.decode(part, { stream: true })));
  }
  return JSON.stringify({ events, lastEventId: parser.lastEventId, retry: Number.isNaN(parser.retry) ? null : parser.retry });
}

const results = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  const bytes = Buffer.from(text, "base64");
  const places = Array.from({ length: bytes.length + 1 }, (_, place) => place);
  return [...new Set([run(bytes, places), ...places.map((place) => run(bytes, [place]))])].map((text) => JSON.parse(text));
});
process.stdout.write(JSON.stringify(results));

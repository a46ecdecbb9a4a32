// Drives a page of Firefox or WebKit. Arguments: the folder of npm's packages, "firefox" and its path, or "webkit" and the address of
// WebKitWebDriver. Each line of standard input is a command, {"goto": URL} or {"script": FUNCTION, "arg": ANY}; each line of output its
// result, {"value": ANY} or {"error": TEXT}. The first line of output says that the page is there.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [modules, engine, where] = process.argv.slice(2);
const require = createRequire(`${modules}/`);

async function firefox() {
  const browser = await require("puppeteer-core").launch({ browser: "firefox", executablePath: where, headless: true, timeout: 0 });
  const page = await browser.newPage();
  page.setDefaultNavigationTimeout(100_000);
  return {
    goto: (url) => page.goto(url),
    evaluate: (script, arg) => page.evaluate((script, arg) => eval(`(${script})`)(arg), script, arg),
    quit: () => browser.close(),
  };
}

async function webkit() {
  const { Builder } = require("selenium-webdriver");
  const capabilities = {
    browserName: "MiniBrowser",
    "webkitgtk:browserOptions": { binary: process.env.MINI_BROWSER, args: ["--automation"] },
  };
  const driver = await new Builder().usingServer(where).withCapabilities(capabilities).build();
  await driver.manage().setTimeouts({ script: 100_000, pageLoad: 100_000 });
  const run = `const [script, arg, done] = arguments;
    (async () => done({value: await eval("(" + script + ")")(arg)}))().catch((error) => done({error: String(error)}));`;
  return {
    goto: (url) => driver.get(url),
    async evaluate(script, arg) {
      const { value, error } = await driver.executeAsyncScript(run, script, arg ?? null);
      if (error) throw new Error(error);
      return value;
    },
    quit: () => driver.quit(),
  };
}

const page = await { firefox, webkit }[engine]();
console.log(JSON.stringify({ value: "ready" }));
for await (const line of createInterface({ input: process.stdin })) {
  const { goto, script, arg } = JSON.parse(line);
  try {
    const value = goto ? void (await page.goto(goto)) : await page.evaluate(script, arg);
    console.log(JSON.stringify({ value: value ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await page.quit();

// Drives DocsGPT's published widget in a page without a browser, as a person would, and tells what is seen.
//
//   echo '{"host": "http://...", "key": "...", "steps": [...]}' | node converse.mjs FOLDER_WITH_NODE_MODULES
//
// Steps: {"ask": "question"}, {"like": 0} and {"dislike": 0} (the thumbs of an answer). For each step there is an object
// on the one line of JSON that is printed: what stands in the conversation, whether the input takes the next question,
// and the bodies that were sent. It ends by itself, or with status 1 and the reason on stderr.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const SECONDS = 20; // a bound on every wait, not a wait
const folder = process.argv[2];
const { host, key, steps } = JSON.parse(readFileSync(0, "utf8"));
const { JSDOM, VirtualConsole } = createRequire(join(folder, "package.json"))("jsdom");

const faults = [];
const page = new VirtualConsole();
page.on("jsdomError", (error) => faults.push(`${error.detail ?? error}`));
page.on("error", (...told) => faults.push(told.map(String).join(" ")));
const { window } = new JSDOM('<!DOCTYPE html><div id="app"></div>', {
  url: "http://shop.example/",
  runScripts: "outside-only",
  pretendToBeVisual: true,
  virtualConsole: page,
});
const { document } = window;
window.Element.prototype.scrollTo = () => {}; // a page without a window has nothing to scroll
window.TextDecoder = TextDecoder;

// What a browser does for a page of another origin: ask first, and hand out only what the answer allows.
const sent = [];
window.fetch = async (url, options) => {
  const headers = { Origin: window.location.origin };
  const asked = await fetch(url, {
    method: "OPTIONS",
    headers: { ...headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type" },
  });
  const allowed = (asked.headers.get("access-control-allow-headers") ?? "").toLowerCase().split(/,\s*/);
  if (!asked.ok || !allowed.includes("content-type")) throw new TypeError("the preflight was refused");
  sent.push({ path: new URL(url).pathname, body: JSON.parse(options.body) });
  const answer = await fetch(url, { ...options, headers: { ...options.headers, ...headers } });
  const origin = answer.headers.get("access-control-allow-origin");
  if (origin !== "*" && origin !== window.location.origin) throw new TypeError("the answer may not be read");
  return answer;
};

function until(what, holds) {
  return new Promise((resolve, reject) => {
    const seen = () => {
      const found = holds();
      if (!found) return;
      observer.disconnect();
      clearTimeout(timer);
      resolve(found);
    };
    const observer = new window.MutationObserver(seen);
    const timer = setTimeout(() => reject(new Error(`no ${what}: ${document.body.innerHTML}`)), SECONDS * 1000);
    observer.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
    seen();
  });
}

const input = () => document.querySelector("form input");
const button = () => document.querySelector("form button");
const thumbs = () => [...document.querySelectorAll("button")].filter((one) => one.querySelector("svg") && one.style.cursor);

function type(text) {
  const setter = Object.getOwnPropertyDescriptor(window.HTMLInputElement.prototype, "value").set;
  setter.call(input(), text);
  input().dispatchEvent(new window.Event("input", { bubbles: true }));
}

// With something typed, the button is what tells whether a question may be sent.
const unlocked = () => until("input that takes a question", () => input().value && !button().disabled);

async function ask(question) {
  type(question);
  await unlocked();
  input().form.dispatchEvent(new window.Event("submit", { bubbles: true, cancelable: true }));
  await until("question that was sent", () => input().value === "");
  type("the next one");
  const locked = button().disabled;
  await unlocked();
  return { locked };
}

async function press(index, what) {
  thumbs()[2 * index + what].click();
  await until("thumb that lights up", () => thumbs()[2 * index + what].querySelector("svg").style.visibility === "visible");
  return {};
}

try {
  window.eval(readFileSync(join(folder, "node_modules/docsgpt/dist/modern/browser.js"), "utf8"));
  window.renderDocsGPTWidget("app", { apiHost: host, apiKey: key, defaultOpen: true });
  await until("widget", input);
  const told = [];
  for (const step of steps) {
    const from = sent.length;
    const done = "ask" in step ? await ask(step.ask) : await press(step.like ?? step.dislike, "like" in step ? 0 : 1);
    told.push({
      ...done,
      text: input().form.parentElement.previousElementSibling.textContent,
      sent: sent.slice(from),
    });
  }
  window.close();
  process.stdout.write(JSON.stringify({ told, faults }), () => process.exit(0));
} catch (error) {
  console.error(error, faults);
  process.exit(1);
}

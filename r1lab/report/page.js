"use strict";
// The browser of completions. The text of a model reaches the page only as textContent, never as HTML.
const PAGE = 20;
const by = (id) => document.getElementById(id);
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};

async function unpack(id) {
  const packed = atob(by(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

let shared = 0; // characters with which all prompts begin
let index, found = [], page = 0, onlyPrompt = null, turn = 0;
const blocks = new Map();
// The text of a completion, or the parts of an episode: [own, text, calls, error].
async function text(row) {
  const block = Math.floor(row / index.block);
  if (!blocks.has(block)) blocks.set(block, unpack("block-" + block));
  return (await blocks.get(block))[row % index.block];
}

const searched = (written) =>
  (Array.isArray(written) ? written.map(([, said, calls, error]) => [said, ...calls, error].join("\n")).join("\n") : written);

function sharedStart(texts) {
  if (texts.length < 2) return 0;
  const first = texts.reduce((a, b) => (a < b ? a : b)), last = texts.reduce((a, b) => (a > b ? a : b));
  let end = 0;
  while (end < first.length && first[end] === last[end]) end++;
  return first.lastIndexOf(" ", end) + 1; // whole words
}

const number = (value) => (value === null ? "–" : String(Math.round(value * 1000) / 1000));
const flagsOf = (mask) => index.flags.filter((_, i) => mask & (1 << i));
const limit = (id) => (by(id).value === "" ? null : Number(by(id).value));

// A fixed permutation: a page that is opened again shows the same completions.
const shuffled = (i) => Math.imul(i + 1, 0x9e3779b1) >>> 0;
const orders = {
  random: (a, b) => shuffled(a) - shuffled(b),
  correct: (a, b) => index.correct[b] - index.correct[a] || (index.step[b] ?? -1) - (index.step[a] ?? -1) || a - b,
  flags: (a, b) => index.count[b] - index.count[a] || (index.step[b] ?? -1) - (index.step[a] ?? -1) || a - b,
  first: (a, b) => (index.step[a] ?? -1) - (index.step[b] ?? -1) || a - b,
  last: (a, b) => (index.step[b] ?? -1) - (index.step[a] ?? -1) || a - b,
  high: (a, b) => (index.reward[b] ?? -Infinity) - (index.reward[a] ?? -Infinity) || a - b,
  low: (a, b) => (index.reward[a] ?? Infinity) - (index.reward[b] ?? Infinity) || a - b,
  long: (a, b) => index.length[b] - index.length[a] || a - b,
  turns: (a, b) => index.turns[b] - index.turns[a] || a - b,
  errors: (a, b) => index.errors[b] - index.errors[a] || a - b,
};

async function filter() {
  const mine = ++turn;
  const stage = by("f-stage").value, task = by("f-task").value, correct = by("f-correct").value;
  const end = by("f-end").value, flag = by("f-flag").value, name = by("f-reward").value, why = by("f-reason").value;
  const from = limit("f-from"), to = limit("f-to"), low = limit("f-low"), high = limit("f-high");
  const wanted = by("f-text").value.trim().toLowerCase();
  const prompts = wanted && index.prompts.map((prompt) => prompt.toLowerCase().includes(wanted));
  let rows = [];
  for (let i = 0; i < index.stage.length; i++) {
    const step = index.step[i];
    if (stage !== "" && index.stage[i] !== +stage) continue;
    if (task !== "" && index.task[i] !== +task) continue;
    if (end !== "" && index.end[i] !== +end) continue;
    if (correct !== "" && index.correct[i] !== +correct) continue;
    if (flag === "any" ? !index.flagged[i] : flag !== "" && !(index.flagged[i] & (1 << +flag))) continue;
    if (from !== null && (step === null || step < from)) continue;
    if (to !== null && (step === null || step > to)) continue;
    if (onlyPrompt !== null && index.prompt[i] !== onlyPrompt) continue;
    if (why !== "" && !index.rewards[i].some((r) => index.head[r[2]] === +why && (name === "" || r[0] === +name))) continue;
    if (name !== "" || low !== null || high !== null) {
      const one = name === "" ? [0, index.reward[i]] : index.rewards[i].find((r) => r[0] === +name);
      if (!one || ((low !== null || high !== null) && one[1] === null)) continue;
      if (low !== null && one[1] < low) continue;
      if (high !== null && one[1] > high) continue;
    }
    rows.push(i);
  }
  if (wanted) {
    by("status").textContent = "searching…";
    const kept = [];
    for (const i of rows) {
      const has = prompts[index.prompt[i]] || searched(await text(i)).toLowerCase().includes(wanted);
      if (mine !== turn) return; // the filters have changed since
      if (has) kept.push(i);
    }
    rows = kept;
  }
  found = rows.sort(orders[by("f-sort").value]);
  page = 0;
  await show();
}

function showStatus() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  const only = onlyPrompt === null ? "" : ", of one prompt";
  by("status").textContent = `${found.length.toLocaleString("en")} completions${only}; page ${page + 1} of ${pages}`;
  by("back").disabled = page === 0;
  by("next").disabled = page + 1 >= pages;
  by("every-prompt").hidden = onlyPrompt === null;
}

async function show() {
  const mine = turn;
  const rows = found.slice(page * PAGE, (page + 1) * PAGE);
  const texts = await Promise.all(rows.map(text));
  if (mine !== turn) return;
  const made = rows.map((row, i) => article(row, texts[i]));
  by("list").replaceChildren(...made);
  for (const box of made) {
    const body = box.querySelector(".short");
    box.querySelector(".tools button").hidden = body.scrollHeight <= body.clientHeight; // all of it is visible
  }
  showStatus();
}

const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

// The turns of the model and the replies, one below the other.
function episode(parts) {
  const box = make("div", undefined, "short episode");
  let number = 0, called = false;
  for (const [own, said, calls, error] of parts) {
    const part = make("div", undefined, own ? "own" : "reply");
    part.append(make("div", own ? `turn ${++number}` : error && called ? "failed call" : "reply", error && called && !own ? "no" : "dim"));
    part.append(make("pre", said.trim() || "(nothing)", said.trim() ? "" : "dim"));
    for (const call of calls) part.append(make("div", "→ " + call, "call"));
    if (own && error) part.append(make("div", "✗ a call that cannot be read: " + error, "call no"));
    else if (error && !said.includes(error)) part.append(make("div", "✗ " + error, "call no"));
    if (own) called = Boolean(calls.length || error);
    box.append(part);
  }
  return box;
}

function ending(row) {
  const end = index.end[row], said = index.said[row] < 0 ? "" : ` · ${index.sayings[index.said[row]]}`;
  const means = index.endings[end] && ` (${index.endings[end]})`; // empty for an unknown end
  return make("div", `end: ${index.ends[end]}${means}${said}`, "reasons");
}

function article(row, written) {
  const box = make("article"), head = make("header");
  const correct = index.correct[row];
  head.append(make("b", index.stages[index.stage[row]]));
  if (index.step[row] !== null) head.append(make("span", "step " + index.step[row]));
  if (index.tasks[index.task[row]]) head.append(make("span", index.tasks[index.task[row]]));
  if (correct >= 0) head.append(make("span", correct ? "✓ correct" : "✗ wrong", correct ? "ok" : "no"));
  if (index.reward[row] !== null) head.append(make("span", "reward " + number(index.reward[row])));
  head.append(make("span", index.length[row] + (index.tokens[row] ? " tokens" : " words")));
  if (index.end[row] >= 0) {
    head.append(make("span", counted(index.turns[row], "turn")), make("span", counted(index.calls[row], "call")));
    if (index.errors[row]) head.append(make("span", counted(index.errors[row], "error"), "no"));
  }
  for (const flag of flagsOf(index.flagged[row])) {
    const chip = make("span", flag[0], "flag");
    chip.title = flag[1];
    head.append(chip);
  }
  const body = Array.isArray(written) ? episode(written) : make("pre", written.trimStart(), "short"), tools = make("div", undefined, "tools");
  const more = make("button", "show all");
  more.onclick = () => (more.textContent = body.classList.toggle("short") ? "show all" : "show less");
  const same = make("button", "same prompt");
  same.onclick = () => { onlyPrompt = index.prompt[row]; clear(); filter(); by("completions").scrollIntoView(); };
  tools.append(more, same);
  const rewards = index.rewards[row].map(([name, value, why]) =>
    `${index.names[name]} ${number(value)}${why < 0 ? "" : ` (${index.reasons[why]})`}`);
  const prompt = make("details"), asked = index.prompts[index.prompt[row]], gold = index.answers[index.answer[row]];
  const line = (shared > 40 ? "… " : "") + asked.slice(shared > 40 ? shared : 0, shared + 400).replace(/\s+/g, " ").trim();
  prompt.append(make("summary", line || "no prompt", "prompt"), make("pre", asked.trim()));
  if (gold) prompt.append(make("div", "gold answer", "dim"), make("pre", gold));
  box.append(head, prompt, body, ...(index.end[row] < 0 ? [] : [ending(row)]), make("div", rewards.join(" · "), "reasons"), tools);
  return box;
}

function clear() {
  for (const field of document.querySelectorAll(".filters input, .filters select")) {
    field.value = field.id === "f-sort" ? "random" : "";
  }
}

function options(id, texts) {
  texts.forEach((text, i) => by(id).append(new Option(text, i)));
  if (!texts.length) by(id).disabled = true;
}

async function start() {
  if (!by("index")) return;
  index = await unpack("index");
  shared = sharedStart(index.prompts);
  index.count = index.flagged.map((mask) => flagsOf(mask).length);
  options("f-stage", index.stages);
  options("f-task", index.tasks);
  options("f-end", index.ends);
  for (const field of document.querySelectorAll(".of-episodes")) field.hidden = !index.ends.length;
  options("f-flag", index.flags.map((flag) => flag[0]));
  options("f-reward", index.names);
  options("f-reason", index.heads);
  let waiting;
  for (const field of document.querySelectorAll(".filters input, .filters select")) {
    field.oninput = () => { clearTimeout(waiting); waiting = setTimeout(filter, field.tagName === "INPUT" ? 250 : 0); };
  }
  by("back").onclick = () => { page--; show(); };
  by("next").onclick = () => { page++; show(); };
  by("clear").onclick = () => { onlyPrompt = null; clear(); filter(); };
  by("every-prompt").onclick = () => { onlyPrompt = null; filter(); };
  await filter();
  document.body.dataset.ready = "yes";
}

addEventListener("beforeprint", () => document.querySelectorAll("main > section details").forEach((d) => (d.open = true)));
start().catch((error) => { by("status").textContent = "The completions cannot be shown: " + error.message; });

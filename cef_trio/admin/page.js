// Values come from file names and servers: set them as text only, never as markup.
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const ROLES = { tr: "row", th: "rowheader", td: "cell" };
const make = (tag, className, scope) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (scope) node.scope = scope;
  // Explicit roles: a narrow window lays tables out as blocks, which browsers then no longer expose as tables.
  if (ROLES[tag]) node.setAttribute("role", ROLES[tag]);
  return node;
};
// In the format of the log, for comparison.
const clock = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

// -- what the daemon has sent ------------------------------------------------------------------------------------------

let page = null, now = Date.now() / 1000, connected = false, announced = "";
const streams = new Map();  // by key, in no order
const sparklines = new Map();  // by stream id: the rates of the last ten minutes
const SPARKLINE_SAMPLES = 60, SAMPLES = 360;
const NOTHING = { period_seconds: 10, at: [], bytes_per_second: [], lag_bytes: [] };
let past = structuredClone(NOTHING), samples = 0;
const keyOf = (stream) => stream.stream_id || stream.file;

function take(stream) {
  stream.find = `${stream.file}\n${stream.stream_id || ""}\n${stream.note || ""}`.toLowerCase();
  stream.share = stream.size_on_disk_bytes ? Math.min(1, stream.acknowledged_bytes / stream.size_on_disk_bytes) : 0;
  streams.set(keyOf(stream), stream);
}
function takeSample(sample) {
  for (const [series, value] of [[past.at, sample.at], [past.bytes_per_second, sample.bytes_per_second], [past.lag_bytes, sample.lag_bytes]]) {
    series.push(value);
    if (series.length > SAMPLES) series.shift();
  }
  const rates = new Map(Object.entries(sample.streams));
  for (const id of rates.keys()) if (!sparklines.has(id)) sparklines.set(id, []);
  for (const [id, series] of sparklines) {
    if (!streams.has(id)) { sparklines.delete(id); continue; }
    series.push(rates.get(id) || 0);
    if (series.length > SPARKLINE_SAMPLES) series.shift();
  }
  samples++;
}

// -- charts: canvases, which need no markup and no style of their own --------------------------------------------------

const colour = (variable) => getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim();
// Returns the drawing context and its size in CSS pixels.
function blank(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  return [draw, width, height];
}
function line(draw, points, height, stroke) {
  if (!points.length) return;
  draw.beginPath();
  points.forEach(([x, y], index) => (index ? draw.lineTo(x, y) : draw.moveTo(x, y)));
  draw.strokeStyle = stroke;
  draw.lineWidth = 1.5;
  draw.lineJoin = "round";
  draw.stroke();
  draw.lineTo(points[points.length - 1][0], height);
  draw.lineTo(points[0][0], height);
  draw.globalAlpha = 0.14;
  draw.fillStyle = stroke;
  draw.fill();
  draw.globalAlpha = 1;
}
function sparkline(canvas, id) {
  const series = sparklines.get(id) || [], drawn = `${id} ${samples} ${canvas.clientWidth} ${devicePixelRatio} ${theme}`;
  if (canvas.dataset.drawn === drawn) return;
  canvas.dataset.drawn = drawn;
  const [draw, width, height] = blank(canvas), most = Math.max(1, ...series);
  const points = series.map((value, index) => [width * (SPARKLINE_SAMPLES - series.length + index) / (SPARKLINE_SAMPLES - 1), height - 1 - (height - 2) * value / most]);
  line(draw, points, height, colour("accent"));
}
// A line over the last hour. `outages` are shaded.
function chart(figure, title, at, series, unit, outages) {
  const canvas = figure.querySelector("canvas"), most = Math.max(1, ...series), end = at.length ? at[at.length - 1] : now;
  const last = series.length ? series[series.length - 1] : 0;
  set(figure.querySelector(".now"), series.length ? `${size(last)}${unit}` : "no sample yet");
  set(figure.querySelector(".most"), series.length ? `at most ${size(Math.max(0, ...series))}${unit}` : "");
  canvas.setAttribute("aria-label", series.length ? `${title} of the last hour: now ${size(last)}${unit}, at most ${size(Math.max(0, ...series))}${unit}` : `${title}: no sample yet`);
  const [draw, width, height] = blank(canvas), x = (seconds) => width * (1 - (end - seconds) / 3600);
  draw.fillStyle = colour("bad-ground");
  for (const outage of outages) draw.fillRect(x(outage.since), 0, Math.max(1, x(outage.until || end) - x(outage.since)), height);
  draw.strokeStyle = colour("line");
  draw.lineWidth = 1;
  for (let quarter = 0; quarter <= 4; quarter++) { draw.beginPath(); draw.moveTo(width * quarter / 4, 0); draw.lineTo(width * quarter / 4, height); draw.stroke(); }
  line(draw, series.map((value, index) => [x(at[index]), height - 1 - (height - 3) * value / most]), height, colour("accent"));
}
const outages = () => (page ? [...page.outages, ...(page.past_outages || [])] : []);
function drawHistory() {
  chart(at("chart-rate"), "Throughput", past.at, past.bytes_per_second, "/s", outages());
  chart(at("chart-lag"), "Not yet uploaded", past.at, past.lag_bytes, "", outages());
}
let theme = 0;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme++; later(); });

// -- the streams: only the rows in view are in the document ------------------------------------------------------------

const ALL_ROWS = 100;  // so many are all there, so that the browser's own search finds them
const MARGIN_ROWS = 10;
const NEW_ROWS = 25;  // made in one frame, beside those in view: more would delay a key or a scroll
const SORTS = {
  file: [(one) => one.file.toLowerCase(), 1], state: [(one) => one.state, 1], share: [(one) => one.share, 1],
  bytes_per_second: [(one) => one.bytes_per_second, -1], lag_bytes: [(one) => one.lag_bytes, -1],
};
let shown = [], sort = { by: "file", way: 1 }, rowHeight = 64, current = null, stale = true, scheduled = false;

function wanted(stream) {
  const text = at("search").value.trim().toLowerCase(), state = at("state").value;
  if (text && !stream.find.includes(text)) return false;
  return !state || (state === "attention" ? stream.state === "retrying" || stream.state === "held" || Boolean(stream.note) : stream.state === state);
}
function arrange() {
  const [value] = SORTS[sort.by];
  shown = [...streams.values()].filter(wanted).map((one) => [value(one), one.file, one]).sort((a, b) => {
    if (a[0] !== b[0]) return (a[0] < b[0] ? -1 : 1) * sort.way;
    return a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0;
  }).map((one) => one[2]);
  stale = false;
}
function inView() {
  const top = at("streams").getBoundingClientRect().top;
  return [
    Math.max(0, Math.floor(-top / rowHeight) - MARGIN_ROWS),
    Math.min(shown.length, Math.ceil((innerHeight - top) / rowHeight) + MARGIN_ROWS),
  ];
}
// The rows in view, and the one that has the focus: it would lose it if it left the document.
function indexesToShow(first, end) {
  if (shown.length <= ALL_ROWS) return shown.map((_, index) => index);
  const indexes = [];
  for (let index = first; index < end; index++) indexes.push(index);
  const row = document.activeElement && document.activeElement.closest("#streams tr");
  const focused = row ? shown.findIndex((one) => keyOf(one) === row.dataset.key) : -1;
  if (focused >= end) indexes.push(focused);
  else if (focused >= 0 && focused < first) indexes.unshift(focused);
  return indexes;
}
function gapRow() {
  const row = make("tr", "gap");
  row.setAttribute("aria-hidden", "true");
  row.append(make("td"));
  row.firstChild.colSpan = 5;
  return row;
}
function fillGap(row, count) {
  const height = `${count * rowHeight}px`;
  if (row.style.height !== height) row.style.height = row.firstChild.style.height = height;
  return row;
}
// A recording, with the button that opens it.
function named() {
  const file = make("th", "", "row"), open = make("button", "open");
  open.type = "button";
  open.append(make("span"));
  file.append(open, make("small", "id"));
  return file;
}
function streamRow() {
  const row = make("tr"), file = named(), state = make("td", "state"), how = make("td", "how"), rate = make("td", "number rate");
  state.append(make("span", "pill"));
  how.append(make("progress"), make("small"));
  const spark = make("canvas", "spark");
  spark.setAttribute("role", "img");
  rate.append(make("span"), spark);
  row.append(file, state, how, rate, make("td", "number lag"));
  row.lastChild.append(make("span"), make("small"));
  return row;
}
function fillStream(row, stream, index) {
  const [file, state, how, rate, lag] = row.children, [open, under] = file.children;
  set(open.firstChild, name(stream.file));
  if (open.title !== open.textContent) open.title = open.textContent;
  open.disabled = !stream.stream_id;
  const note = name(stream.note || "");
  if (under.className !== (note ? "note" : "id")) under.className = note ? "note" : "id";
  set(under, note || stream.stream_id || "not recorded yet");
  if (under.title !== note) under.title = note;
  const pill = state.firstChild;
  if (pill.className !== `pill ${stream.state}`) pill.className = `pill ${stream.state}`;
  set(pill, stream.state);
  const [bar, text] = how.children;
  if (bar.max !== 1) bar.max = 1;
  if (bar.value !== stream.share) bar.value = stream.share;
  const label = `${name(stream.file)}, uploaded of what is on disk`;
  if (bar.getAttribute("aria-label") !== label) bar.setAttribute("aria-label", label);
  set(text, `${size(stream.acknowledged_bytes)} of ${size(stream.size_on_disk_bytes)} · ${Math.floor(stream.share * 100)}%`);
  set(rate.firstChild, stream.bytes_per_second ? `${size(stream.bytes_per_second)}/s` : "–");
  const spark = rate.lastChild, has = sparklines.has(stream.stream_id);
  if (spark.hidden === has) spark.hidden = !has;
  if (has) {
    const says = `Rate of the last ten minutes, at most ${size(Math.max(0, ...sparklines.get(stream.stream_id)))}/s`;
    if (spark.getAttribute("aria-label") !== says) spark.setAttribute("aria-label", says);
    sparkline(spark, stream.stream_id);
  }
  set(lag.firstChild, size(stream.lag_bytes));
  set(lag.lastChild, stream.lag_since === null ? "" : `for ${span(now - stream.lag_since)}`);
  if (row.ariaRowIndex !== String(index + 2)) row.ariaRowIndex = String(index + 2);  // the head is the first
}
function drawStreams() {
  if (stale) arrange();
  const body = at("streams"), [first, end] = inView(), indexes = indexesToShow(first, end);
  const kept = new Map([...body.children].filter((row) => row.dataset.key !== undefined).map((row) => [row.dataset.key, row]));
  const gaps = [...body.children].filter((row) => row.dataset.key === undefined);
  let before = null, previous = -1;
  const place = (row) => {
    const next = before ? before.nextSibling : body.firstChild;
    if (next !== row) body.insertBefore(row, next);
    before = row;
  };
  const used = new Set(indexes.map((index) => keyOf(shown[index])));
  const spare = [...kept].filter(([key]) => !used.has(key)).map(([, row]) => row);
  for (const row of spare) row.remove();
  let room = NEW_ROWS;
  for (const index of indexes) {
    const made = kept.has(keyOf(shown[index]));
    if (!made && (index < first || index >= end) && --room < 0) { later(); continue; }
    if (index !== previous + 1) place(fillGap(gaps.shift() || gapRow(), index - previous - 1));
    const stream = shown[index], key = keyOf(stream);
    let row = kept.get(key);
    if (!row) { row = spare.pop() || streamRow(); row.dataset.key = key; }
    place(row);
    fillStream(row, stream, index);
    previous = index;
  }
  if (previous < shown.length - 1) place(fillGap(gaps.shift() || gapRow(), shown.length - 1 - previous));
  for (const row of gaps) row.remove();
  at("streams-table").setAttribute("aria-rowcount", String(shown.length + 1));
  const sample = body.querySelector("tr[data-key]");
  const height = sample ? sample.getBoundingClientRect().height : rowHeight;
  if (height && Math.abs(height - rowHeight) > 0.5) { rowHeight = height; later(); }
  at("streams-scroll").hidden = shown.length === 0;
  at("no-streams").hidden = shown.length > 0;
  if (page) set(at("no-streams"), streams.size ? "No stream matches the filter." : page.phase === "starting" ? "The daemon is starting." : "No recording is open. New ones appear here by themselves.");
  const out = page && page.streams_left_out;
  const filtered = shown.length < streams.size ? `${shown.length.toLocaleString()} of ${many(streams.size, "stream")}` : "";
  set(at("left-out"), [filtered, out ? `the ${streams.size.toLocaleString()} that lag most; ${out.toLocaleString()} more` : ""].filter(Boolean).join("; "));
}
// One drawing for all that has happened since the last frame.
function later() {
  if (scheduled) return;
  scheduled = true;
  const draw = () => { if (scheduled) { scheduled = false; show(); } };
  if (document.hidden) setTimeout(draw, 500);  // only the title can be seen, and there are no frames
  else requestAnimationFrame(draw);
}
document.addEventListener("visibilitychange", () => { scheduled = false; later(); });
addEventListener("scroll", () => { if (shown.length > ALL_ROWS) later(); }, { passive: true });
addEventListener("resize", later);

function sortBy(by) {
  sort = { by, way: sort.by === by ? -sort.way : SORTS[by][1] };
  for (const head of document.querySelectorAll("[data-sort]")) {
    const mine = head.dataset.sort === by;
    head.closest("th").setAttribute("aria-sort", mine ? (sort.way > 0 ? "ascending" : "descending") : "none");
  }
  at("sort").value = by;
  stale = true;
  later();
}
for (const head of document.querySelectorAll("[data-sort]")) head.addEventListener("click", () => sortBy(head.dataset.sort));
at("sort").addEventListener("change", () => sortBy(at("sort").value));
let filterTimer;
function filterChanged() {
  stale = true;
  later();
  clearTimeout(filterTimer);  // announced when the typing pauses
  filterTimer = setTimeout(() => set(at("matches"), at("search").value || at("state").value ? `${many(shown.length, "stream")} shown` : "All streams shown"), 700);
}
at("search").addEventListener("input", filterChanged);
at("state").addEventListener("change", filterChanged);

// -- failures, completions, outages ------------------------------------------------------------------------------------

// Rows keep their nodes, so that focus, selection and a screen reader's position are kept.
function rows(body, items, key, build, fill) {
  const kept = new Map([...body.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, index) => {
    const id = key(item, index);
    let row = kept.get(id);
    if (!row) { row = build(); row.dataset.key = id; }
    kept.delete(id);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] || null);
    fill(row, item);
  });
  for (const row of kept.values()) row.remove();
}
function fillName(file, stream) {
  set(file.firstChild.firstChild, name(stream.file));
  set(file.lastChild, stream.stream_id);
}
function failedRow() {
  const row = make("tr"), why = make("td", "why"), retry = make("code", "command");
  why.append(make("span"), make("small"), make("small", "advice"), retry);
  row.append(named(), why, make("td", "number when"));
  row.lastChild.append(make("span"), make("small"));
  return row;
}
function fillFailed(row, stream) {
  const [file, why, when] = row.children;
  fillName(file, stream);
  set(why.firstChild, stream.sentence);
  set(why.children[1], name(stream.detail || ""));
  rich(why.children[2], stream.advice ? `What to do: ${stream.advice}.` : "");
  set(why.lastChild, `cef-trio retry ${stream.stream_id}`);
  set(when.firstChild, `${span(now - stream.at)} ago`);
  set(when.lastChild, clock(stream.at));
}
function completedRow() {
  const row = make("tr");
  row.append(named(), make("td", "number"), make("td", "number"), make("td", "number when"));
  row.children[1].dataset.label = "size";
  row.children[2].dataset.label = "took";
  row.lastChild.append(make("span"), make("small"));
  return row;
}
function fillCompleted(row, stream) {
  const [file, bytes, took, when] = row.children;
  fillName(file, stream);
  set(bytes, size(stream.size_bytes));
  set(took, span(stream.at - stream.started_at));
  set(when.firstChild, `${span(now - stream.at)} ago`);
  set(when.lastChild, clock(stream.at));
}
const SERVICES = { s3: "S3", redis: "Redis" };
const service = (outage) => SERVICES[outage.service] || outage.service;
function outageRow() {
  const row = make("tr");
  row.append(make("th", "", "row"), make("td", "when"), make("td", "number"), make("td", "why"));
  row.children[1].dataset.label = "began";
  row.children[2].dataset.label = "lasted";
  row.lastChild.append(make("span"), make("small"));
  return row;
}
function fillOutage(row, outage) {
  const [what, began, lasted, why] = row.children;
  set(what, service(outage));
  set(began, clock(outage.since));
  set(lasted, span(outage.until - outage.since));
  set(why.firstChild, name(outage.cause));
  set(why.lastChild, `ended after ${many(outage.probes, "probe")}, at ${clock(outage.until)}`);
}

// -- notices -----------------------------------------------------------------------------------------------------------

function story(outage) {
  const probed = outage.probed_at ? `, the last ${span(now - outage.probed_at)} ago` : "";
  const cause = outage.cause || outage.error, texts = [`Cause: ${name(cause)}`];
  if (outage.error && outage.error !== cause) texts.push(`Last probe: ${name(outage.error)}`);
  return {
    key: outage.service, title: `${service(outage)} is not reachable`,
    text: `Since ${clock(outage.since)}, for ${span(now - outage.since)}. The streams wait, and nothing is lost. Probed ${many(outage.probes, "time")} since${probed}; probes go on, and the streams continue by themselves.`,
    detail: texts.join("\n"), advice: outage.advice,
  };
}
function noticed() {
  const found = [];
  if (!connected) found.push({
    key: "lost", bad: true, title: page && page.phase === "draining" ? "The daemon has stopped, or is about to" : "No connection to the daemon",
    text: page ? `The state is shown as it was at ${clock(now)}. Reconnecting every few seconds.` : "Reconnecting every few seconds.",
  });
  if (page) {
    for (const text of page.unhealthy) found.push({ key: text.split(" has ")[0], bad: true, title: "The daemon is not healthy", text });
    found.push(...page.outages.map(story));
    for (const risk of page.at_risk) found.push({
      key: `risk ${risk.reason}`, bad: true, title: risk.recordings ? `${size(risk.size_bytes)} of ${many(risk.recordings, "recording")} do not get to S3` : "Recordings are at risk",
      text: `Since ${clock(risk.since)}, for ${span(now - risk.since)}.`,
      detail: name(risk.why.charAt(0).toUpperCase() + risk.why.slice(1)), advice: risk.advice,
    });
    if (page.phase === "draining") found.push({ key: "drain", title: "The daemon is shutting down", text: "Parts in flight are finished; no new ones are started. Every stream resumes at the next start." });
  }
  return found;
}
function notices(found) {
  const build = () => { const node = make("div"); node.append(make("strong"), make("p"), make("small", "cause"), make("small", "advice")); return node; };
  rows(at("notices"), found, (one) => one.key, build, (node, one) => {
    const kind = one.bad ? "notice bad" : "notice";
    if (node.className !== kind) node.className = kind;
    set(node.firstChild, one.title);
    set(node.children[1], one.text);
    set(node.children[2], one.detail || "");
    rich(node.lastChild, one.advice ? `What to do: ${one.advice}.` : "");
  });
}
// What screen readers announce: phase, notices and failures, when one of these changes; never growing numbers.
function summarize(phase, found) {
  const totals = page && page.totals, failed = totals ? totals.failed : null;
  const news = [phase, failed, ...found.map((one) => one.title)].join();
  if (news === announced) return;
  announced = news;
  const sentences = [`cef-trio: ${phase}`, ...found.map((one) => one.title)];
  if (totals) sentences.push(`${many(totals.active_streams, "open stream")}, ${failed === null ? "an unknown number" : failed} failed`);
  set(at("summary"), `${sentences.join(". ")}.`);
}
const KINDS = { ready: "running", starting: "starting", waits: "outage", "at risk": "unhealthy", stopping: "draining" };
// The pill's class and text: the daemon's own judgement, in the words of all commands.
function phaseOf() {
  if (!connected) return ["lost", "no connection"];
  if (!page) return ["connecting", "connecting"];
  if (page.phase === "running" && page.unhealthy.length) return ["unhealthy", "not healthy"];
  return [KINDS[page.state], page.state];
}
function show() {
  const found = noticed(), [kind, phase] = phaseOf();
  notices(found);
  summarize(phase, found);
  at("phase").className = `pill ${kind}`;
  set(at("phase"), phase);
  const title = `${page && page.totals.failed ? `(${page.totals.failed} failed) ` : ""}${phase} · cef-trio`;
  if (document.title !== title) document.title = title;
  if (!page) return;
  const totals = page.totals, count = (number) => (number === null ? "–" : number.toLocaleString());
  set(at("about"), `${name(page.folder)} · ${name(page.instance)} · version ${page.version} · up ${span(now - page.started_at)}`);
  set(at("working"), String(totals.working));
  set(at("slots"), `of at most ${totals.slots.toLocaleString()}`);
  set(at("rate"), `${size(totals.bytes_per_second)}/s`);
  set(at("limit"), totals.upload_limit_bytes_per_second ? `limit ${size(totals.upload_limit_bytes_per_second)}/s` : "");
  set(at("lag"), size(totals.lag_bytes));
  set(at("lag-age"), totals.lag_since === null ? "" : `for ${span(now - totals.lag_since)}`);
  set(at("live"), count(totals.active_streams));
  set(at("completed"), count(totals.completed));
  set(at("failed-count"), count(totals.failed));
  at("failed-count").parentNode.className = totals.failed ? "bad" : "";
  if (page.failed.length) at("failed-count").href = "#failed-title";
  else at("failed-count").removeAttribute("href");
  drawHistory();
  drawStreams();
  const completed = page.completed || [], over = page.past_outages || [];
  at("failed-card").hidden = page.failed.length === 0;
  rows(at("failed"), page.failed, (stream) => stream.stream_id, failedRow, fillFailed);
  set(at("failed-more"), totals.failed > page.failed.length ? `These are the latest ${page.failed.length} of ${totals.failed}.` : "");
  at("completed-card").hidden = completed.length === 0;
  rows(at("completions"), completed, (stream) => stream.stream_id, completedRow, fillCompleted);
  set(at("completed-more"), totals.completed > completed.length ? `The latest ${completed.length} of ${totals.completed.toLocaleString()}` : "");
  at("outages-card").hidden = over.length === 0;
  rows(at("outages"), over, (outage) => `${outage.service} ${outage.since}`, outageRow, fillOutage);
  drawDetail();
}

// -- one stream --------------------------------------------------------------------------------------------------------

const PARTS = {  // state: its words, and the variable of its colour
  stored: ["in S3", "accent"], rewritten: ["rewritten", "mark"], in_flight: ["being sent", "warn"],
  failed: ["not sent: the last attempt failed", "bad"], waiting: ["waiting", "soft"], unwritten: ["not written yet", "line"],
};
let chosen = null, detail = null;

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);
function facts(stream) {
  const known = detail.known, found = [["State", stream ? stream.state : known ? known.status : ""]];
  if (stream && stream.note) found.push(["Why", name(stream.note)]);
  if (!stream && detail.why) found.push(["Why", name(detail.why)]);
  const failed = page.failed.find((one) => one.stream_id === chosen);
  if (failed && failed.advice) found.push(["What to do", `${failed.advice}. Then \`cef-trio retry ${chosen}\``]);
  if (stream) found.push(["Uploaded", `${size(stream.acknowledged_bytes)} of ${size(stream.size_on_disk_bytes)}`]);
  if (!known) return found;
  found.push(["Object", `${name(known.bucket)}/${name(known.key)}`]);
  if (known.upload_id) found.push(["Upload id", name(known.upload_id)]);
  found.push(["Started", `${clock(known.started_at)}, ${span(now - known.started_at)} ago`]);
  if (known.completed_at) found.push(["Completed", `${clock(known.completed_at)}, ${span(now - known.completed_at)} ago`]);
  if (known.etag) found.push(["ETag", name(known.etag)]);
  if (!stream && known.size_bytes !== null) found.push(["Size", `${size(known.size_bytes)}, ${many(known.size_bytes, "byte")}`]);
  found.push(["Sent in all", `${size(known.total_bytes_sent)}${known.parts_rewritten ? `; ${many(known.parts_rewritten, "part")} rewritten (${size(known.bytes_rewritten)})` : ""}`]);
  if (stream) {
    const parts = (counts) => Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([what, count]) => `${what} ${count.toLocaleString()}`).join(", ");
    found.push(["Requests to S3", total(known.requests) ? `${total(known.requests).toLocaleString()}: ${parts(known.requests)}` : "none by this process"]);
    found.push(["Retries", total(known.retries) ? `${total(known.retries).toLocaleString()}: ${parts(known.retries)}` : "none"]);
  }
  return found;
}
function drawParts() {
  const runs = (detail.known && detail.known.parts) || [], all = runs.reduce((sum, run) => sum + run.count, 0);
  at("parts-card").hidden = all === 0;
  if (all === 0) return;
  const verified = detail.known.verified_parts, counts = new Map();
  for (const run of runs) counts.set(run.state, (counts.get(run.state) || 0) + run.count);
  const legend = Object.keys(PARTS).filter((state) => counts.has(state)).map((state) => [state, `${counts.get(state).toLocaleString()} ${PARTS[state][0]}`]);
  legend.push(["verified", verified ? `${verified.toLocaleString()} verified` : "verified when the recording has ended"]);
  rows(at("parts-legend"), legend, ([state]) => state, () => { const item = make("li"); item.append(make("i"), make("span")); return item; }, (item, [state, text]) => {
    if (item.firstChild.className !== `swatch ${state}`) item.firstChild.className = `swatch ${state}`;
    set(item.lastChild, text);
  });
  set(at("parts-title"), `${many(all, "part")}, the first of ${size(detail.known.part_size)}`);
  const canvas = at("parts"), [draw, width, height] = blank(canvas);
  canvas.setAttribute("aria-label", `Parts: ${legend.map((one) => one[1]).join(", ")}`);
  let from = 0;
  for (const run of runs) {
    draw.fillStyle = colour(PARTS[run.state][1]);
    draw.fillRect(width * from / all, 0, Math.max(1, width * run.count / all), height - 8);
    from += run.count;
  }
  draw.fillStyle = colour("track");
  draw.fillRect(0, height - 5, width, 5);
  draw.fillStyle = colour("good");
  draw.fillRect(0, height - 5, width * verified / all, 5);
  if (all <= width / 5) {  // lines between the parts
    draw.fillStyle = colour("card");
    for (let part = 1; part < all; part++) draw.fillRect(Math.round(width * part / all), 0, 1, height - 8);
  }
}
function drawDetail() {
  if (!chosen || !page) return;
  const stream = streams.get(chosen);
  const file = stream ? stream.file : detail && detail.file !== null ? detail.file : null;
  set(at("detail-title"), file === null ? chosen : name(file));
  set(at("detail-id"), file === null ? "" : chosen);
  const known = detail && detail.stream_id === chosen && (detail.known || stream);
  at("detail-body").hidden = !known;
  at("detail-none").hidden = Boolean(known);
  set(at("detail-none"), detail && detail.stream_id === chosen ? "This daemon knows no open stream of that id, and it is not among the latest that ended. See cef-trio show." : "Waiting for the daemon.");
  if (!known) return;
  rows(at("detail-facts"), facts(stream), ([label]) => label, () => { const item = make("div"); item.append(make("dt"), make("dd")); return item; }, (item, [label, text]) => {
    set(item.firstChild, label);
    if (label === "What to do") rich(item.lastChild, text);
    else set(item.lastChild, text);
  });
  drawParts();
  const samples = detail.lag_bytes.length, times = detail.lag_bytes.map((_, index) => detail.history_at - past.period_seconds * (samples - 1 - index));
  at("detail-charts").hidden = samples === 0;
  if (samples) {
    chart(at("detail-rate"), "Throughput", times, detail.bytes_per_second, "/s", outages());
    chart(at("detail-lag"), "Not yet uploaded", times, detail.lag_bytes, "", outages());
  }
  const build = () => { const item = make("li"); item.append(make("time"), make("span", "event"), make("span", "text")); return item; };
  rows(at("detail-log"), detail.log, (one, index) => `${one.at} ${one.event} ${index}`, build, (item, one) => {
    if (item.className !== one.level) item.className = one.level;
    set(item.firstChild, one.at.slice(11, 23));
    item.firstChild.title = one.at;
    set(item.children[1], name(one.event));
    set(item.lastChild, name(one.text));
  });
  at("detail-log").hidden = detail.log.length === 0;
  at("detail-no-log").hidden = detail.log.length > 0;
}
// The address names the stream, so that it can be reloaded and sent to others.
function choose() {
  const match = /^#stream=([\w-]{1,100})$/.exec(location.hash), asked = match ? match[1] : null;
  if (asked === chosen) return;
  chosen = asked;
  detail = null;
  if (chosen) { if (!at("detail").open) at("detail").showModal(); }
  else if (at("detail").open) at("detail").close();
  connect();
  later();
}
addEventListener("hashchange", choose);
at("detail").addEventListener("close", () => {
  if (!chosen) return;
  history.replaceState(null, "", location.pathname);
  choose();
});
document.addEventListener("click", (event) => {
  const open = event.target.closest("button.open");
  if (open) location.hash = `stream=${open.closest("[data-key]").dataset.key}`;
  const close = event.target.closest("button.close");
  if (close) close.closest("dialog").close();
});

// -- keys --------------------------------------------------------------------------------------------------------------

const KEYS_OFF = "cef-trio keys off";
function kept(change) {  // a browser may refuse storage
  try { return change === undefined ? localStorage.getItem(KEYS_OFF) === "1" : localStorage.setItem(KEYS_OFF, change ? "" : "1"); } catch { return false; }
}
at("keys-on").checked = !kept();
at("keys-on").addEventListener("change", () => kept(at("keys-on").checked));
function go(step) {
  if (stale) arrange();
  if (!shown.length) return;
  const before = shown.findIndex((one) => keyOf(one) === current);
  const index = before < 0 ? (step > 0 ? 0 : shown.length - 1) : Math.min(shown.length - 1, Math.max(0, before + step));
  current = keyOf(shown[index]);
  const top = at("streams").getBoundingClientRect().top + index * rowHeight;
  if (top < 0 || top + rowHeight > innerHeight) scrollTo(0, scrollY + top - innerHeight / 2);
  drawStreams();
  const row = [...at("streams").children].find((one) => one.dataset.key === current);
  if (row) row.querySelector("button").focus({ preventScroll: true });
}
document.addEventListener("focusin", (event) => {
  const row = event.target.closest && event.target.closest("#streams tr");
  if (row) current = row.dataset.key;
});
const ACTIONS = {
  "/": () => at("search").focus(),
  j: () => go(1), ArrowDown: () => go(1), k: () => go(-1), ArrowUp: () => go(-1),
  f: () => (page && page.failed.length ? at("failed-title") : at("streams-title")).focus(),
  s: () => { const names = Object.keys(SORTS); sortBy(names[(names.indexOf(sort.by) + 1) % names.length]); },
  "?": () => at("keys").showModal(),
};
document.addEventListener("keydown", (event) => {
  const target = event.target, typing = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);
  if (event.key === "Escape" && target === at("search")) { at("search").value = ""; filterChanged(); target.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target === at("search") && event.key === "ArrowDown") { event.preventDefault(); current = null; go(1); return; }
  const inRows = Boolean(target.closest && target.closest("#streams"));
  if (typing || !Object.hasOwn(ACTIONS, event.key)) return;
  if (event.key.startsWith("Arrow") ? !inRows : kept()) return;  // arrows scroll elsewhere
  event.preventDefault();
  ACTIONS[event.key]();
});
at("keys-button").addEventListener("click", () => at("keys").showModal());

// -- the connection ----------------------------------------------------------------------------------------------------

let source = null, reconnectTimer, silenceTimer;
// A connection may end silently (a cable, a suspended machine): then ticks are missing.
function markConnected() {
  connected = true;
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => lost(true), 8000);
}
function lost(reconnect) {
  connected = false;
  later();
  if (reconnect || source.readyState === EventSource.CLOSED) {
    source.close();
    clearTimeout(reconnectTimer);
    reconnectTimer = setTimeout(connect, 3000);
  }
}
function connect() {
  if (source) source.close();
  clearTimeout(reconnectTimer);
  const mine = source = new EventSource(chosen ? `/events?stream=${encodeURIComponent(chosen)}` : "/events");
  const on = (event, act) => mine.addEventListener(event, (message) => {
    if (source !== mine) return;
    markConnected();
    act(JSON.parse(message.data));
    later();
  });
  on("message", (everything) => {
    page = everything;
    streams.clear();
    sparklines.clear();
    past = structuredClone(NOTHING);
    for (const stream of page.streams) take(stream);
    delete page.streams;
    stale = true;
  });
  on("rows", (news) => {
    const before = streams.size;
    for (const key of news.gone) streams.delete(key);
    const gone = streams.size !== before, left = streams.size;
    for (const stream of news.streams) take(stream);
    if (gone || streams.size !== left || sort.by !== "file" || at("search").value || at("state").value) stale = true;
    else shown = shown.map((one) => streams.get(keyOf(one)));
  });
  on("change", (news) => Object.assign(page, news));
  on("history", (all) => { past = all; samples++; });
  on("sparklines", (some) => { for (const [id, series] of Object.entries(some)) sparklines.set(id, series); samples++; });
  on("sample", takeSample);
  on("detail", (one) => { detail = one; });
  on("tick", (seconds) => { now = seconds; });
  mine.onerror = () => { if (source === mine) { clearTimeout(silenceTimer); lost(false); } };
}
choose();
if (!source) connect();

// The data lead's page. It uses the API and nothing else. Every text goes into the page as text: nothing here parses HTML.

const main = document.getElementById("main");
const number = new Intl.NumberFormat("en");
const COLUMNS = ["id", "verdict", "score", "label", "prompt", "response"];
const FACETS = ["verdict", "reason", "label", "source", "file", "split", "override"];
const PAGE = 50;
let session = null;
let listener = null;

// Build an element: properties that start with "on" are listeners, null children are left out, strings become text.
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...nodes(children));
  return element;
}

const nodes = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false).map((child) => child instanceof Node ? child : String(child));
// Show a page, unless another one was opened while this one waited for its data.
let opened = 0;
const fill = (mine, ...children) => mine === opened && main.replaceChildren(...nodes(children));

function say(text, seconds = 8) {
  const box = document.getElementById("message");
  box.textContent = text;
  clearTimeout(box.timer);
  box.timer = setTimeout(() => (box.textContent = ""), seconds * 1000);
}

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json", "x-csrf-token": session?.csrf ?? "" }, body: JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(`/api/${path}`, options);
  } catch {
    throw new Error("The service does not answer. Is `curate serve` still running?");
  }
  const value = reply.status === 204 ? null : await reply.json();
  if (reply.ok) return value;
  const detail = Array.isArray(value.detail) ? value.detail.map((one) => one.msg).join("; ") : value.detail;
  throw Object.assign(new Error(detail ?? `The service answered ${reply.status}.`), { status: reply.status });
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => Array.isArray(value) ? value.map((one) => [name, one]) : [[name, value]]));
const quote = (text) => `'${String(text).replaceAll("'", "''")}'`;
const shown = (value) => value === null || value === undefined ? "" : typeof value === "number" ? (Number.isInteger(value) ? number.format(value) : value.toFixed(2)) : Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
const words = (name) => name.replaceAll("_", " ");
const can = (role) => ["viewer", "curator", "owner"].indexOf(session.role) >= ["viewer", "curator", "owner"].indexOf(role);
const rowsLink = (where) => `/rows?${query({ where })}`;

function go(path) {
  history.pushState(null, "", path);
  show();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='/']");
  if (link && !link.hasAttribute("download") && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    go(link.getAttribute("href"));
  }
});
addEventListener("popstate", () => show());

function frame() {
  document.getElementById("project").textContent = session.project;
  const at = location.pathname;
  const links = [["/", "Overview", at === "/"], ["/rows", "Rows", at.startsWith("/rows")], ["/cuts", "What if", at === "/cuts"], ...(can("curator") ? [["/review", "Review", at === "/review"]] : [])];
  document.getElementById("nav").replaceChildren(...links.map(([href, text, here]) => h("a", { href, "aria-current": here ? "page" : null }, text)));
}

function bars(lines, label) {
  const most = Math.max(1, ...lines.map((line) => line.rows));
  return h("div", { class: "bars" }, lines.map((line) => [
    line.href ? h("a", { href: line.href, title: line.name }, line.name) : h("button", { class: "link", type: "button", title: line.name, onclick: line.onclick }, line.name),
    h("progress", { value: line.rows, max: most, "aria-label": `${label}: ${line.name}` }),
    h("span", { class: "n" }, number.format(line.rows)),
  ]));
}

const STAGES = ["generate", "score", "dedup", "screen", "decide", "push", "pull", "describe", "report"];

// Start a stage. One that pays for model calls first says what it would cost at most.
async function start(stage) {
  try {
    if (stage === "generate" || stage === "score") {
      const cost = await call("estimate");
      if (!confirm(`${stage}: what is left of the plan costs about $${cost.cost_usd.toFixed(2)}; $${cost.spent_usd.toFixed(2)} of $${cost.budget_usd.toFixed(2)} are spent. Start it?`)) return;
    }
    await call("jobs", { stage });
    await show();
  } catch (error) { say(error.message, 20); }
}

async function cancel(id) {
  try { await call(`jobs/${id}/cancel`, {}); await show(); } catch (error) { say(error.message, 20); }
}

function jobList(jobs) {
  const buttons = can("owner") ? h("div", { class: "toolbar", role: "group", "aria-label": "Run a stage" }, "Run:", STAGES.map((stage) => h("button", { type: "button", onclick: () => start(stage) }, stage))) : null;
  const one = (job) => h("details", { open: job.state === "failed" }, h("summary", {}, `${job.stage}: ${job.state}, ${(job.ended ?? job.started ?? job.created).replace("T", " ").slice(0, 19)} UTC `,
    can("owner") && ["waiting", "running"].includes(job.state) ? h("button", { type: "button", onclick: () => cancel(job.id) }, "Cancel") : null), h("pre", {}, job.output || "No output yet."));
  return [buttons, jobs.map(one)];
}

async function overview() {
  const mine = opened;
  const [found, jobs] = await Promise.all([call("overview"), call("jobs")]);
  clearTimeout(overview.timer);
  if (jobs.some((job) => ["waiting", "running"].includes(job.state))) overview.timer = setTimeout(() => location.pathname === "/" && show(), 2000);
  const rows = Object.values(found.rows).reduce((sum, n) => sum + n, 0);
  const verdicts = Object.entries(found.verdicts).sort((a, b) => b[1] - a[1]);
  const card = (name, value, href) => h("a", { class: "card", href }, h("b", {}, value), h("span", {}, name));
  const [spent, budget] = [found.cost_usd, found.budget_usd];
  fill(mine,
    h("h1", {}, "Overview"),
    h("div", { class: "cards" }, card("rows", number.format(rows), "/rows"),
      ["to_review", "in_review", "approved", "disputed", "rejected", "dropped"].map((name) => card(words(name), number.format(found.verdicts[name] ?? 0), rowsLink(`verdict = ${quote(name)}`))),
      h("div", { class: "card" }, h("b", {}, `$${spent.toFixed(2)}`), h("span", {}, `of $${budget.toFixed(2)} ${found.cost_simulated ? "(simulated)" : "spent"}`),
        h("meter", { min: 0, max: Math.max(budget, 0.01), value: spent, "aria-label": "share of the budget" }))),
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "Verdicts"), verdicts.length ? bars(verdicts.map(([name, n]) => ({ name: words(name), rows: n, href: rowsLink(`verdict = ${quote(name)}`) })), "rows") : h("p", { class: "soft" }, "Nothing is decided yet.")),
      h("section", {}, h("h2", {}, "Dropped because"), found.dropped_for.length ? bars(found.dropped_for.map((one) => ({ name: one.words, rows: one.rows, href: rowsLink(`verdict = 'dropped' AND reason = ${quote(one.value)}`) })), "dropped") : h("p", { class: "soft" }, "No row was dropped."))),
    h("h2", {}, "What needs attention"),
    h("ul", { class: "notes" }, [...found.notes, ...(found.last_pull.error ? [`The last pull failed: ${found.last_pull.error}`] : [])].map((note) => h("li", {}, note))),
    h("h2", {}, "Stages"),
    h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["stage", "in", "out", "state", "seconds"].map((name) => h("th", { scope: "col", class: ["stage", "state"].includes(name) ? null : "number" }, name)))),
      h("tbody", {}, Object.entries(found.last).map(([stage, run]) => h("tr", {}, h("td", {}, stage), h("td", { class: "number" }, shown(run.in)), h("td", { class: "number" }, shown(run.out)), h("td", {}, run.state), h("td", { class: "number" }, shown(run.seconds))))))),
    jobList(jobs),
    h("h2", {}, "Snapshots"),
    found.snapshots.length ? h("ul", {}, found.snapshots.map((one) => h("li", {}, h("code", {}, one.path), ` ${number.format(one.rows)} ${one.kind} rows`))) : h("p", { class: "soft" }, "There is none yet. Signing never happens on this page: `curate snapshot`, then `curate sign`."),
  );
}

function state() {
  const values = new URLSearchParams(location.search);
  const columns = values.getAll("columns");
  return { where: values.get("where") ?? "", search: values.get("search") ?? "", order: values.get("order") ?? "", columns: columns.length ? columns : COLUMNS, page: Math.max(1, Number(values.get("page")) || 1) };
}

function browse(change) {
  const next = { ...state(), page: 1, ...change };
  const columns = next.columns.join() === COLUMNS.join() ? [] : next.columns;
  go(`/rows?${query({ where: next.where, search: next.search, order: next.order, columns, page: next.page > 1 ? next.page : null })}`);
}

const also = (where, part) => (where.trim() ? `(${where.trim()}) AND ${part}` : part);

async function rows() {
  const mine = opened;
  const now = state();
  const asked = { where: now.where, search: now.search };
  let found, known;
  const fail = h("p", { class: "error", role: "alert" });
  try {
    [found, known] = await Promise.all([call(`rows?${query({ ...asked, order: now.order, columns: ["id", ...now.columns.filter((name) => name !== "id")], limit: PAGE, offset: (now.page - 1) * PAGE })}`), call("columns")]);
  } catch (error) {
    if (error.status === 401) throw error;
    fail.textContent = error.message;
  }
  const search = h("input", { name: "search", value: now.search, placeholder: "Text in prompt or response", "aria-label": "Text in prompt or response" });
  const where = h("input", { name: "where", value: now.where, placeholder: "Condition, such as score < 6 AND label = 'a'", "aria-label": "Condition (SQL)", spellcheck: "false" });
  const form = h("form", { class: "query", role: "search", onsubmit: (event) => { event.preventDefault(); browse({ search: search.value, where: where.value }); } }, search, where, h("button", { class: "main" }, "Find"));
  if (!found) return fill(mine, h("h1", {}, "Rows"), form, fail);
  const chosen = new Set();
  const all = h("input", { type: "checkbox", "aria-label": "Choose all rows of this page" });
  const boxes = found.rows.map((row) => h("input", { type: "checkbox", value: row.id, "aria-label": `Choose row ${row.id.slice(0, 8)}` }));
  const reason = h("input", { name: "reason", placeholder: "Reason (stored with every row)", "aria-label": "Reason" });
  const scope = h("select", { "aria-label": "Rows to change" }, h("option", { value: "chosen" }, "0 chosen rows"), h("option", { value: "all" }, `all ${number.format(found.found)} that match`));
  const count = () => { chosen.clear(); boxes.filter((box) => box.checked).forEach((box) => chosen.add(box.value)); scope.options[0].textContent = chosen.size === 1 ? "1 chosen row" : `${chosen.size} chosen rows`; };
  boxes.forEach((box) => box.addEventListener("change", count));
  all.addEventListener("change", () => { boxes.forEach((box) => (box.checked = all.checked)); count(); });
  const change = async (action) => {
    if (!reason.value.trim()) { say("Write a reason: it is stored with every row."); return reason.focus(); }
    const wanted = scope.value === "all" ? { where: now.where || "true", search: now.search } : { ids: [...chosen] };
    if (scope.value === "chosen" && !chosen.size) return say("Choose rows first, or change all that match.");
    if (scope.value === "all" && !confirm(`${action === "drop" ? "Drop" : "Keep"} all ${number.format(found.found)} rows that match? Undo takes it back.`)) return;
    try {
      const done = await call("override", { action, reason: reason.value, confirmed: true, ...wanted });
      say(`${number.format(done.out)} rows: ${Object.entries(done.verdicts).map(([name, n]) => `${number.format(n)} ${words(name)}`).join(", ")}. Undo takes it back.`);
      await call(`rows?${query({ limit: 1, fresh: true })}`);
      await show();
    } catch (error) { say(error.message, 20); }
  };
  const undo = async () => {
    try {
      const done = await call("undo", {});
      say(`Taken back for ${number.format(done.out)} rows. Undo again restores it.`);
      await call(`rows?${query({ limit: 1, fresh: true })}`);
      await show();
    } catch (error) { say(error.message, 20); }
  };
  const sorter = (name) => {
    const now_ = now.order === name ? "ascending" : now.order === `-${name}` ? "descending" : null;
    return h("th", { scope: "col", "aria-sort": now_ }, h("button", { type: "button", onclick: () => browse({ order: now_ === "ascending" ? `-${name}` : now_ === "descending" ? "" : name }) }, words(name), now_ === "ascending" ? " ▲" : now_ === "descending" ? " ▼" : ""));
  };
  const cell = (row, name) => name === "id" ? h("td", {}, h("a", { href: `/rows/${row.id}` }, row.id.slice(0, 8)))
    : name === "verdict" ? h("td", {}, row[name] ? h("span", { class: `verdict ${row[name]}` }, words(row[name])) : "")
    : h("td", { class: typeof row[name] === "number" ? "number" : null }, h("div", { class: "clip", dir: "auto" }, shown(row[name])));
  const pages = Math.max(1, Math.ceil(found.found / PAGE));
  const picker = h("select", { "aria-label": "Add or remove a column", onchange: (event) => { const name = event.target.value; browse({ columns: now.columns.includes(name) ? now.columns.filter((one) => one !== name) : [...now.columns, name] }); } },
    h("option", { value: "" }, "Columns…"), known.map((one) => h("option", { value: one.name, title: one.meaning }, `${now.columns.includes(one.name) ? "✓ " : ""}${one.name}`)));
  const exported = (ending) => h("a", { href: `/api/export?${query({ ...asked, order: now.order, columns: now.columns, ending })}`, download: true }, ending.toUpperCase());
  fill(mine,
    h("h1", {}, "Rows"), form,
    h("div", { class: "browse" },
      h("aside", { class: "facets", "aria-label": "Counts by value" }, h("section", { id: "histogram" }), FACETS.map((name) => facet(name, asked, now))),
      h("section", {},
        h("div", { class: "toolbar" }, h("span", { id: "found" }, found.found === found.total ? `${number.format(found.total)} rows` : `${number.format(found.found)} of ${number.format(found.total)} rows`),
          found.current ? null : h("span", { class: "soft" }, "(a change is being read)"), picker, h("span", { class: "soft" }, "Download: ", exported("csv"), " · ", exported("jsonl"), " · ", exported("parquet"))),
        can("curator") ? h("div", { class: "toolbar", role: "group", "aria-label": "Change rows" }, scope, reason,
          h("button", { type: "button", onclick: () => change("keep") }, "Keep"), h("button", { type: "button", onclick: () => change("drop") }, "Drop"), h("button", { type: "button", onclick: undo }, "Undo")) : null,
        found.rows.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, can("curator") ? h("th", { scope: "col" }, all) : null, now.columns.map(sorter))),
          h("tbody", {}, found.rows.map((row, place) => h("tr", {}, can("curator") ? h("td", {}, boxes[place]) : null, now.columns.map((name) => cell(row, name)))))))
          : h("p", { class: "soft" }, "No row matches. Remove a condition, or search for another text."),
        h("div", { class: "toolbar" }, h("button", { type: "button", disabled: now.page <= 1, onclick: () => browse({ page: now.page - 1 }) }, "Previous"), `page ${number.format(now.page)} of ${number.format(pages)}`,
          h("button", { type: "button", disabled: now.page >= pages, onclick: () => browse({ page: now.page + 1 }) }, "Next")))));
  histogram(asked);
}

function facet(name, asked, now) {
  const list = h("div", {}, h("p", { class: "soft" }, "Counting…"));
  const load = async () => {
    try {
      const groups = await call(`groups?${query({ by: name, ...asked, most: 12 })}`);
      const filled = groups.filter((group) => group.value !== null);
      list.replaceChildren(filled.length ? bars(filled.map((group) => ({ name: shown(group.value), rows: group.rows, onclick: () => browse({ where: also(now.where, `${name} = ${quote(group.value)}`) }) })), name) : h("p", { class: "soft" }, "No values"));
    } catch (error) { list.replaceChildren(h("p", { class: "error" }, error.message)); }
  };
  const box = h("details", { open: name === "verdict" || name === "label" }, h("summary", {}, words(name)), list);
  let loaded = false;
  const toggled = () => { if (box.open && !loaded) { loaded = true; load(); } };
  box.addEventListener("toggle", toggled);
  toggled();
  return box;
}

// Bars of the score's distribution, drawn as SVG; a click adds the interval to the condition.
async function histogram(asked) {
  const place = document.getElementById("histogram");
  try {
    const bins = await call(`histogram?${query({ column: "score", ...asked, bins: 20 })}`);
    if (!bins.length || !place) return;
    const most = Math.max(...bins.map((bin) => bin.rows));
    const svg = (tag, properties, ...children) => { const element = document.createElementNS("http://www.w3.org/2000/svg", tag); Object.entries(properties).forEach(([name, value]) => element.setAttribute(name, value)); element.append(...children); return element; };
    const width = 240 / bins.length;
    const picture = svg("svg", { viewBox: "0 0 240 60", width: "100%", role: "img", "aria-label": `Scores from ${bins[0].low.toFixed(1)} to ${bins.at(-1).high.toFixed(1)}` },
      ...bins.map((bin, n) => { const height = bin.rows ? Math.max(2, (56 * bin.rows) / most) : 0; const title = svg("title", {}); title.textContent = `${bin.low.toFixed(2)} to ${bin.high.toFixed(2)}: ${number.format(bin.rows)}`; return svg("rect", { x: n * width + 0.5, y: 60 - height, width: Math.max(1, width - 1), height, fill: "var(--mark)" }, title); }));
    place.replaceChildren(h("h2", {}, "Score"), picture, h("p", { class: "soft" }, `${bins[0].low.toFixed(1)} to ${bins.at(-1).high.toFixed(1)}`));
  } catch { place?.replaceChildren(); }
}

async function story(identity) {
  const mine = opened;
  const row = await call(`rows/${encodeURIComponent(identity)}`);
  const record = row.record ?? {};
  const turns = [...(record.prompt ?? []), ...(record.completion ? [record.completion] : record.completions ?? [])];
  const link = (id) => h("a", { href: `/rows/${id}` }, id.slice(0, 8));
  const list = (title, items, empty) => h("section", {}, h("h2", {}, title), items.length ? h("ul", {}, items.map((item) => h("li", {}, item))) : h("p", { class: "soft" }, empty));
  const verdict = row.verdict?.verdict;
  fill(mine,
    h("p", {}, h("a", { href: "/rows", onclick: (event) => { event.preventDefault(); event.stopPropagation(); history.length > 1 ? history.back() : go("/rows"); } }, "← Back to the rows")),
    h("h1", {}, `${row.kind} ${row.id.slice(0, 12)} `, verdict ? h("span", { class: `verdict ${verdict}` }, words(verdict)) : h("span", { class: "soft" }, "not decided yet")),
    row.erased ? h("p", {}, "The text of this row was erased.") : null,
    can("curator") && !row.erased ? deciding(row) : null,
    turns.map((turn) => h("div", { class: `turn ${turn.role}`, dir: "auto" }, h("small", {}, turn.role), turn.content)),
    h("div", { class: "columns" },
      list("Verdict", (row.verdict?.reasons ?? []).map((one) => [`${one.stage}: ${one.words}. ${one.evidence} `, one.twin ? link(one.twin) : null]), "No reason is stored."),
      list("Scores", row.scores.map((one) => `${one.criterion}: ${one.value} of 5${one.current ? "" : " (earlier rubric)"}. ${one.rationale ?? ""}`), "No judge has scored it."),
      list("Judge's preference", row.choices.map((one) => `shown ${one.shown}: ${one.winner === null ? "tie" : `response ${one.winner + 1}`}. ${one.rationale ?? ""}`), "Not a pair, or not compared."),
      list("Findings", row.findings.map((one) => [`${one.stage}: ${one.words}. ${one.evidence} `, one.twin ? link(one.twin) : null]), "No finding is stored."),
      list("Annotations", row.answers.map((one) => `${one.user}, ${one.status}: ${Object.entries(one.values).filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && !value.length)).map(([name, value]) => `${words(name)} ${shown(value)}`).join("; ")}`), "Nobody has answered it."),
      list("Origin", row.origins.map((one) => [`${one.how}: ${one.source.slice(0, 12)}, item ${one.item}${one.cell ? `, cell ${one.cell}` : ""}${one.call ? `, response ${one.call.id} of ${one.call.model}` : ""} `, one.parent ? ["made from ", link(one.parent)] : null, one.meta ? h("div", {}, h("code", {}, JSON.stringify(one.meta).slice(0, 2000))) : null]), "Unknown."),
      list("Override", row.override ? [`${row.override.action}${row.override.choice ? ` as ${row.override.choice}` : ""} by ${row.override.by} at ${row.override.at}: ${row.override.reason}`] : [], "No data lead has decided on it."),
      list("Snapshots", row.split ? [`split: ${row.split[0]}`, ...row.snapshots] : [], "It is in no snapshot.")));
  if (mine === opened) document.title = `${row.id.slice(0, 8)} · ${session.project}`;
}

// Sliders for the cuts. Each change previews the verdicts; nothing is written until "Apply".
const CUTS = [
  ["threshold", "Lowest score that is kept", 0, 10, 0.1],
  ["near", "Near-duplicates from a Jaccard similarity of", 0.3, 1, 0.01],
  ["semantic", "Semantic duplicates from a cosine of", 0.5, 1, 0.01],
  ["cap", "Most rows of a class", 1, null, 1],
  ["overlap", "Annotators per row", 1, 7, 1],
];

async function cuts() {
  const mine = opened;
  const now = await call("cuts");
  const result = h("section", { "aria-live": "polite" }, h("p", { class: "soft" }, "Move a slider to see what would change."));
  const inputs = CUTS.filter(([name]) => now[name] !== null).map(([name, text, low, high, step]) => {
    // A cut for duplicates can only rise here: below it nothing was measured.
    const least = name === "near" || name === "semantic" ? now[name] : low;
    const input = h("input", { type: "range", name, min: least, max: high ?? Math.max(10, 2 * now[name]), step, value: now[name] });
    const output = h("output", {}, shown(now[name]));
    input.addEventListener("input", () => { output.textContent = input.value; later(); });
    return { name, input, view: h("label", { class: "cut" }, h("span", {}, text), input, output) };
  });
  const values = () => Object.fromEntries(inputs.filter(({ name, input }) => Number(input.value) !== now[name]).map(({ name, input }) => [name, Number(input.value)]));
  let timer, asked = 0;
  const later = () => { clearTimeout(timer); timer = setTimeout(look, 150); };
  const look = async () => {
    const mine = ++asked;
    try {
      const found = await call("what-if", values());
      if (mine === asked) result.replaceChildren(...nodes(outcome(found)));
    } catch (error) { if (mine === asked) result.replaceChildren(h("p", { class: "error" }, error.message)); }
  };
  const apply = async () => {
    if (!Object.keys(values()).length) return say("Nothing is changed yet.");
    try {
      await call("cuts", values());
      say("project.yaml was changed, and the rows were decided again.");
      await show();
    } catch (error) { say(error.message, 20); }
  };
  fill(mine, h("h1", {}, "What if"), h("div", { class: "columns" }, h("section", {}, inputs.map((one) => one.view), h("div", { class: "toolbar" },
    can("owner") ? h("button", { type: "button", class: "main", onclick: apply }, "Apply") : null, h("button", { type: "button", onclick: () => show() }, "Reset"))), result));
}

function outcome(found) {
  const precision = (p) => p.answered ? `${(100 * p.share).toFixed(1)} % (${(100 * p.low).toFixed(1)} to ${(100 * p.high).toFixed(1)} %) of ${number.format(p.answered)}` : "nobody answered one";
  const line = (name, read) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, read(found.before)), h("td", {}, read(found.after)));
  return [
    h("p", {}, `${number.format(found.changed)} rows would change.`),
    h("table", {}, h("thead", {}, h("tr", {}, ["", "now", "then"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {},
      line("rows that pass", (one) => number.format(one.passing)), line("approved by people, of those that pass", (one) => precision(one.precision)),
      line("answers to go", (one) => number.format(one.answers)), line("hours", (one) => one.hours.toFixed(1)),
      [...new Set([...Object.keys(found.before.verdicts), ...Object.keys(found.after.verdicts)])].map((name) => line(words(name), (one) => number.format(one.verdicts[name] ?? 0))))),
    found.rows.length ? [h("h2", {}, "Rows that would change"), h("ul", {}, found.rows.slice(0, 20).map((row) => h("li", {}, h("a", { href: `/rows/${row.id}` }, row.id.slice(0, 8)), ` ${words(row.before)} → ${words(row.after)}`)))] : null,
  ];
}

// Disputes with both answers and word differences, and how good the annotators are.
async function review(names = false) {
  const mine = opened;
  const [found, state] = await Promise.all([call(`disputes?names=${names}`), call("overview")]);
  const share = (one) => one ? `${(100 * one.value).toFixed(0)} % (${(100 * one.low).toFixed(0)} to ${(100 * one.high).toFixed(0)} %)` : "not known";
  const people = state.annotators?.annotators ?? [];
  const table = people.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["annotator", "answers", "bad rows turned down", "good rows approved", "seconds per answer"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, people.map((one) => h("tr", {}, h("td", {}, one.name), h("td", { class: "number" }, shown(one.answers)), h("td", {}, share(one.sensitivity)), h("td", {}, share(one.specificity)), h("td", { class: "number" }, shown(one.median_s))))))) : h("p", { class: "soft" }, "Nobody has answered yet, or the rows were not decided since.");
  fill(mine, h("h1", {}, "Review"),
    h("h2", {}, `Disputes (${number.format(found.disputes.length)})`),
    found.disputes.length ? h("div", { class: "toolbar" }, found.next.map((one) => h("span", { class: "soft" }, one)), h("button", { type: "button", onclick: () => review(!names) }, names ? "Hide names" : "Show names and edits to choose")) : h("p", { class: "soft" }, "No row is disputed."),
    found.disputes.slice(0, 100).map((one) => dispute(one)),
    found.disputes.length > 100 ? h("p", { class: "soft" }, "The first 100 are shown. `curate disputes --csv FILE` lists all.") : null,
    h("h2", {}, "Annotators"), h("p", { class: "soft" }, "Estimated from all answers and control rows, with 95 % intervals."), table,
    h("ul", { class: "notes" }, state.notes.filter((note) => /Certificate|Calibration|control|alpha/i.test(note)).map((note) => h("li", {}, note))));
}

// "[-removed-]" and "{+added+}" as marked words.
const marked = (text) => text.split(/(\[-[\s\S]*?-\]|\{\+[\s\S]*?\+\})/).map((part) => part.startsWith("[-") && part.endsWith("-]") ? h("del", {}, part.slice(2, -2)) : part.startsWith("{+") && part.endsWith("+}") ? h("ins", {}, part.slice(2, -2)) : part);

function dispute(one) {
  const reason = h("input", { name: "reason", placeholder: "Reason (stored with the row)", "aria-label": "Reason" });
  const settle = async (choice) => {
    if (!reason.value.trim()) { say("Write a reason: it is stored with the row."); return reason.focus(); }
    try { await call("settle", { id: one.id, choice, reason: reason.value }); say("Settled. Undo on the page of rows takes it back."); await show(); } catch (error) { say(error.message, 20); }
  };
  const choices = one.choices.length ? one.choices : one.kind === "preference" ? ["first", "second", "reject"] : ["approve", "reject"];
  return h("article", { class: "dispute" }, h("p", {}, h("a", { href: `/rows/${one.id}` }, one.id.slice(0, 8)), ` ${words(one.why)}, waits for ${one.waits_for}`),
    h("div", { class: "turn user", dir: "auto" }, one.prompt), one.texts.map((text, n) => h("div", { class: "turn assistant", dir: "auto" }, one.texts.length > 1 ? h("small", {}, n ? "second" : "first") : null, text)),
    h("ul", {}, one.answers.map((answer) => h("li", {}, h("b", {}, answer.reviewer), ` ${answer.says}${answer.reasons.length ? `: ${answer.reasons.join(", ")}` : ""}${answer.comment ? `. ${answer.comment}` : ""}`, answer.changes ? h("div", { class: "turn", dir: "auto" }, marked(answer.changes)) : null))),
    h("div", { class: "toolbar", role: "group", "aria-label": "Settle" }, reason, choices.map((choice) => h("button", { type: "button", onclick: () => settle(choice) }, choice))));
}

// Keep or drop the row that is shown.
function deciding(row) {
  const reason = h("input", { name: "reason", placeholder: "Reason (stored with the row)", "aria-label": "Reason" });
  const change = async (action) => {
    if (!reason.value.trim()) { say("Write a reason: it is stored with the row."); return reason.focus(); }
    try {
      await call("override", { action, reason: reason.value, confirmed: true, ids: [row.id] });
      await show();
    } catch (error) { say(error.message, 20); }
  };
  return h("div", { class: "toolbar", role: "group", "aria-label": "Decide on this row" }, reason, h("button", { type: "button", onclick: () => change("keep") }, "Keep"), h("button", { type: "button", onclick: () => change("drop") }, "Drop"));
}

function login(problem) {
  const mine = opened;
  const token = h("input", { name: "token", type: "password", autocomplete: "off", "aria-label": "Token" });
  fill(mine, h("form", { class: "login", onsubmit: (event) => { event.preventDefault(); enter(token.value); } },
    h("h1", {}, "Log in"), h("p", {}, "Open the link that `curate serve` printed (it works once), or enter a token from the project's serve.token, serve.curator.token or serve.viewer.token."),
    problem ? h("p", { class: "error", role: "alert" }, problem) : null, token, h("button", { class: "main" }, "Log in")));
  token.focus();
}

async function enter(token) {
  try {
    session = await call("login", { token });
    await show();
  } catch (error) { login(error.message); }
}

function listen() {
  if (listener) return;
  listener = new EventSource("/api/events");
  let version = null;
  const live = document.getElementById("live");
  listener.onopen = () => (live.textContent = "live");
  listener.onerror = () => (live.textContent = "connection lost; trying again");
  listener.onmessage = (event) => {
    live.textContent = "live";
    // Other pages may hold a choice that is not sent yet.
    if (version !== null && event.data !== version && location.pathname === "/") show();
    version = event.data;
  };
}

async function show() {
  const mine = ++opened;
  try {
    session ??= await call("session");
    frame();
    listen();
    const at = location.pathname;
    document.title = `${at === "/" ? "Overview" : at === "/cuts" ? "What if" : at === "/review" ? "Review" : "Rows"} · ${session.project}`;
    await (at === "/" ? overview() : at === "/rows" ? rows() : at === "/cuts" ? cuts() : at === "/review" ? review() : story(decodeURIComponent(at.slice("/rows/".length))));
  } catch (error) {
    if (error.status === 401) { session = null; login(); } else fill(mine, h("h1", {}, "This cannot be shown"), h("p", { class: "error", role: "alert" }, error.message), h("p", {}, h("a", { href: "/rows" }, "All rows")));
  }
}

const code = new URLSearchParams(location.hash.slice(1)).get("code");
if (code) {
  history.replaceState(null, "", location.pathname);
  enter(code);
} else show();

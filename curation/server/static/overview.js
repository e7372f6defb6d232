// The first page: verdicts, reasons, money, what needs attention, stages and jobs.

import { app, here, number, show, h, fill, say, call, quote, shown, words, can, rowsLink, bars } from "./dom.js";

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

async function restart(id) {
  try { await call(`jobs/${id}/restart`, {}); await show(); } catch (error) { say(error.message, 20); }
}

async function cancel(id) {
  try { await call(`jobs/${id}/cancel`, {}); await show(); } catch (error) { say(error.message, 20); }
}

function jobList(jobs) {
  const buttons = can("owner") ? h("div", { class: "toolbar", role: "group", "aria-label": "Run a stage" }, "Run:", STAGES.map((stage) => h("button", { type: "button", onclick: () => start(stage) }, stage))) : null;
  const one = (job) => h("details", { open: ["failed", "interrupted"].includes(job.state) }, h("summary", {}, `${job.stage}: ${job.state}, ${(job.ended ?? job.started ?? job.created).replace("T", " ").slice(0, 19)} UTC${job.by ? `, by ${job.by}` : ""} `,
    can("owner") && ["waiting", "running"].includes(job.state) ? h("button", { type: "button", onclick: () => cancel(job.id) }, "Cancel") : null,
    can("owner") && ["interrupted", "failed", "cancelled"].includes(job.state) ? h("button", { type: "button", onclick: () => restart(job.id) }, "Start again") : null), h("pre", {}, job.output || "No output yet."));
  return [buttons, jobs.map(one)];
}

export async function overview() {
  const mine = app.opened;
  const [found, jobs] = await Promise.all([call("overview"), call("jobs")]);
  clearTimeout(overview.timer);
  if (jobs.some((job) => ["waiting", "running"].includes(job.state))) overview.timer = setTimeout(() => here() === "/" && show(), 2000);
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

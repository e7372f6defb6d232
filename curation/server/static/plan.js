// The plan: its cells, coverage, cost, and a preview of a few rows before the rest is paid for.

import { app, call, can, fill, h, here, number, say, show, words } from "./dom.js";

const usd = (value) => `$${value.toFixed(value > 0 && value < 0.01 ? 4 : 2)}`;

export async function plan() {
  const mine = app.opened;
  const [found, jobs] = await Promise.all([call("plan"), call("jobs")]);
  clearTimeout(plan.timer);
  const busy = jobs.find((job) => ["waiting", "running"].includes(job.state));
  if (busy) plan.timer = setTimeout(() => here() === "/plan" && show(), 1500);
  const failed = !busy && jobs[0]?.state === "failed" && ["plan", "generate"].includes(jobs[0].stage) ? jobs[0] : null;
  const cost = h("div", { "aria-live": "polite" });
  const run = async (stage) => { try { await call("jobs", { stage }); await show(); } catch (error) { say(error.message, 20); } };
  const ask = async () => {
    cost.replaceChildren(h("p", { class: "soft" }, "Estimating…"));
    try {
      const one = await call("plan/preview", {});
      const go = async () => { try { await call("plan/preview", { confirmed: true }); await show(); } catch (error) { say(error.message, 20); } };
      const all = async () => { if (confirm(`Write all ${number.format(found.waiting)} rows for at most ${usd(one.all_usd)}?`)) await run("generate"); };
      cost.replaceChildren(h("p", {}, `A preview of ${one.rows} rows costs at most ${usd(one.cost_usd)}. Everything that is planned, with its scores, costs at most ${usd(one.all_usd)}; ${usd(one.spent_usd)} of ${usd(one.budget_usd)} are spent.${found.simulated ? " The mock provider charges nothing: these are simulated costs." : ""}`),
        h("div", { class: "toolbar" }, h("button", { type: "button", class: "main", onclick: go }, `Write ${one.rows} rows for at most ${usd(one.cost_usd)}`), h("button", { type: "button", onclick: all }, `Write all ${number.format(found.waiting)} rows`)));
    } catch (error) { cost.replaceChildren(h("p", { class: "error", role: "alert" }, error.message)); }
  };
  const axes = Object.entries(found.coverage);
  const names = Object.keys(found.examples[0] ?? {});
  fill(mine, h("h1", {}, "Plan"),
    h("p", {}, found.cells ? `${number.format(found.cells)} cells are planned, one for each row to write; ${number.format(found.waiting)} have no row yet.` : "There is no plan yet. Drawing it costs nothing."),
    busy ? h("p", { role: "status" }, `The stage ${busy.stage} is ${busy.state}… `, h("a", { href: "/" }, "Follow it on the overview")) : null,
    failed ? h("details", { open: true }, h("summary", { class: "error" }, `${failed.stage} failed`), h("pre", {}, failed.output)) : null,
    can("owner") ? h("div", { class: "toolbar" }, h("button", { type: "button", class: found.cells ? null : "main", disabled: Boolean(busy), onclick: () => run("plan") }, found.cells ? "Draw the plan again" : "Draw the plan"), found.waiting ? h("button", { type: "button", class: "main", disabled: Boolean(busy), onclick: ask }, "What does it cost?") : null) : null, cost,
    found.latest.length ? [h("h2", {}, "The rows that were written last"), found.latest.map((row) => h("article", { class: "dispute" }, h("p", {}, h("a", { href: `/rows/${row.id}` }, row.id.slice(0, 8)), h("span", { class: "soft" }, ` ${row.cell ?? ""}`)), h("div", { class: "turn user", dir: "auto" }, row.prompt), h("div", { class: "turn assistant", dir: "auto" }, row.response)))] : null,
    axes.length ? [h("h2", {}, "Coverage"), h("div", { class: "columns" }, axes.map(([name, values]) => h("section", {}, h("h3", {}, words(name)), h("div", { class: "bars" }, Object.entries(values).slice(0, 30).map(([value, [done, all]]) => [h("span", { class: "clipped", title: value }, value), h("progress", { value: done, max: all, "aria-label": `${name}: ${value}` }), h("span", { class: "n" }, `${number.format(done)} of ${number.format(all)}`)])))))] : null,
    found.examples.length ? [h("h2", {}, "The first cells"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The first cells" }, h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, words(name))))), h("tbody", {}, found.examples.map((cell) => h("tr", {}, names.map((name) => h("td", {}, cell[name] ?? "")))))))] : null);
}

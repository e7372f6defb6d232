// A new project: from a brief to a folder with a plan.

import { app, call, fill, h, say } from "./dom.js";

const AXES = "topic: everyday, specialist\ntask: question, rewrite, classify\ndifficulty: basic, intermediate, advanced\npersona: beginner, expert";

// A labelled field; the hint is read with it.
export function field(label, input, hint) {
  const id = input.getAttribute("id") ?? `f-${input.getAttribute("name")}`;
  input.setAttribute("id", id);
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint ? h("small", { class: "soft", id: `${id}-hint` }, hint) : null);
}

export async function start() {
  const mine = app.opened;
  if (app.session.project) return fill(mine, h("h1", {}, "New project"), h("p", {}, "This service has one project. To create projects on the page, start it with a folder for them:"), h("pre", {}, "curate serve --root FOLDER"), h("p", {}, "Or in a terminal:"), h("pre", {}, "curate init my-project"));
  const found = await call("start");
  if (!found.root) return fill(mine, h("h1", {}, "New project"), h("p", {}, "The service was started without a folder for new projects. Start it with one:"), h("pre", {}, found.command));
  const input = (name, more = {}) => h("input", { name, ...more });
  const name = input("name", { required: true, maxlength: 60, placeholder: "support-answers" });
  const brief = h("textarea", { name: "brief", rows: 5, required: true });
  const use = input("intended_use", { required: true });
  const license = input("license", { value: "other" });
  const ways = [["write", "A teacher model writes the rows"], ["import", "I have rows and import them"]].map(([value, text], n) => h("label", { class: "choice" }, h("input", { type: "radio", name: "way", value, checked: n === 0 }), text));
  const model = (role, first) => {
    const provider = h("select", { name: `${role}-provider`, "aria-label": `${role}: provider` }, found.providers.map((one) => h("option", { value: one.name }, one.simulated ? `${one.name} (mock provider: made-up text)` : one.name)));
    const list = h("datalist", { id: `${role}-models` });
    const named = input(`${role}-model`, { value: first, list: `${role}-models`, "aria-label": `${role}: model`, required: true });
    const note = h("small", { class: "soft" });
    const change = () => {
      const one = found.providers.find((each) => each.name === provider.value);
      list.replaceChildren(...one.models.map((value) => h("option", { value })));
      if (one.models.length && !one.models.includes(named.value)) named.value = one.models.find((value) => first.includes("haiku") === value.includes("haiku")) ?? one.models[0];
      note.textContent = one.key_env ? `The key comes from ${one.key_env}, where the service runs.` : one.simulated ? "For trials: start it with `curate simulate start`." : "The model is a folder on the service's machine.";
    };
    provider.addEventListener("change", change);
    change();
    return { view: h("fieldset", {}, h("legend", {}, role), provider, named, list, note), value: () => ({ provider: provider.value, model: named.value }) };
  };
  const [teacher, judge] = [model("teacher", "claude-sonnet-5-5"), model("judge", "claude-haiku-5-5")];
  const budget = input("budget", { type: "number", min: 0, step: "0.01", value: 5 });
  const instruction = input("instruction", { type: "number", min: 0, value: 100 }), preference = input("preference", { type: "number", min: 0, value: 0 });
  const axes = h("textarea", { name: "axes", rows: 5, spellcheck: "false" }, AXES);
  const writing = h("div", {}, h("div", { class: "columns" }, teacher.view, judge.view), h("div", { class: "columns" },
    field("Examples to write", instruction), field("Preference pairs to write", preference), field("Budget in USD", budget, "A hard cap on the cost of all calls.")),
    field("Axes of the plan", axes, "One axis per line with its values: topic: soil, compost, pests. Each row gets one value of every axis."));
  const importing = () => form.elements.way.value === "import";
  const problem = h("p", { class: "error", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    const attributes = {};
    for (const line of axes.value.split("\n").filter((one) => one.trim())) {
      const [axis, values] = [line.slice(0, line.indexOf(":")).trim(), line.slice(line.indexOf(":") + 1).split(",").map((one) => one.trim()).filter(Boolean)];
      if (!line.includes(":") || !axis || !values.length) { problem.textContent = `The line "${line}" has no axis and values. Write it as topic: soil, compost.`; return axes.focus(); }
      attributes[axis] = values;
    }
    const body = { name: name.value.trim(), brief: brief.value, intended_use: use.value, license: license.value, import_only: importing() };
    if (!importing()) Object.assign(body, { teacher: teacher.value(), judge: judge.value(), budget_usd: Number(budget.value), instruction: Number(instruction.value), preference: Number(preference.value), attributes });
    try {
      const made = await call("start", body);
      say(`The project ${made.name} is created.`);
      location.assign(`/p/${made.name}/${made.next}`);
    } catch (error) { problem.textContent = error.message; problem.scrollIntoView({ block: "nearest" }); }
  };
  const form = h("form", { class: "narrow", onsubmit: submit },
    field("Name", name, `Its folder is created in ${found.root}.`), field("Brief", brief, "What the model should do and for whom, in two to five sentences. The teacher and the judge read it."),
    field("Intended use", use, "What the fine-tuned model is for. Every snapshot records it."), field("License of the data set", license, "An SPDX identifier, such as CC-BY-4.0."),
    h("fieldset", {}, h("legend", {}, "Where do the rows come from?"), ways), writing, problem, h("button", { class: "main" }, "Create the project"));
  form.addEventListener("change", () => { writing.hidden = importing(); writing.querySelectorAll("input, textarea, select").forEach((one) => (one.disabled = importing())); });
  fill(mine, h("h1", {}, "New project"), form);
}

// Form fields for the options of a model, made from their description in /api/info.

import * as api from "./api.js";
import { announce, h } from "./dom.js";
import { icon } from "./icons.js";

/**
 * @typedef {{name: string, type: string, default: any, minimum: number|null, maximum: number|null,
 *     choices: any[]|null, help: string, common: boolean}} Option
 * @typedef {{element: HTMLElement, value: () => any, set: (value: any) => void}} Field `value` returns undefined for
 *     the model's own value.
 */

/** Options that are too long for a grid cell. */
const WIDE = ["text", "picture"];

/** Returns the display name of an option. */
export function titleOf(name) {
  const words = name.replaceAll("_", " ").replace(/^num /, "");
  return words[0].toUpperCase() + words.slice(1);
}

/**
 * Makes the field of an option.
 * @param {Option} option
 * @returns {Field}
 */
export function makeField(option) {
  const id = `option-${option.name}`;
  const make =
    { bool: switchField, choice: choiceField, picture: pictureField, text: textField }[option.type] ?? numberField;
  const { control, extra, value, set } = make(option, id);
  const label = h("label", { for: id, text: titleOf(option.name) });
  const wide = WIDE.includes(option.type) ? " wide" : "";
  const element = h(
    "div",
    { class: `option${wide}`, title: option.help },
    label,
    h("div", { class: "control" }, control, extra ?? null),
  );
  control.setAttribute("aria-description", option.help ?? "");
  return { element, value, set };
}

function numberField(option, id) {
  const control = h("input", {
    type: "number",
    id,
    placeholder: text(option.default),
    step: option.type === "int" ? "1" : "any",
  });
  if (option.minimum !== null && option.minimum !== undefined) control.min = option.minimum;
  if (option.maximum !== null && option.maximum !== undefined) control.max = option.maximum;
  return {
    control,
    extra: option.name === "seed" ? dice(control) : null,
    value: () => (control.value === "" ? undefined : Number(control.value)),
    set: (value) => (control.value = text(value)),
  };
}

function dice(control) {
  const roll = () => {
    control.value = `${Math.floor(Math.random() * 2 ** 31)}`;
    announce(`Seed ${control.value}.`);
  };
  return h(
    "button",
    { type: "button", class: "tool", title: "Random seed", "aria-label": "Random seed", onclick: roll },
    icon("dice"),
  );
}

function textField(option, id) {
  const control = h("input", { type: "text", id, placeholder: text(option.default) });
  return { control, value: () => control.value || undefined, set: (value) => (control.value = text(value)) };
}

function choiceField(option, id) {
  const own = option.default === null || option.default === undefined ? "model's own" : `${option.default} (default)`;
  const rest = (option.choices ?? []).filter((choice) => choice !== option.default);
  const control = h(
    "select",
    { id },
    h("option", { value: "", text: own }),
    ...rest.map((choice) => h("option", { value: `${choice}`, text: `${choice}` })),
  );
  return {
    control,
    value: () => control.value || undefined,
    set: (value) =>
      (control.value = [...control.options].some((item) => item.value === text(value)) ? text(value) : ""),
  };
}

function switchField(option, id) {
  const names = { true: "on", false: "off" };
  const own =
    option.default === null || option.default === undefined ? "model's own" : `${names[option.default]} (default)`;
  const rest = [true, false].filter((value) => value !== option.default);
  const control = h(
    "select",
    { id },
    h("option", { value: "", text: own }),
    ...rest.map((value) => h("option", { value: `${value}`, text: names[value] })),
  );
  return {
    control,
    value: () => (control.value === "" ? undefined : control.value === "true"),
    set: (value) => (control.value = value === option.default ? "" : text(value)),
  };
}

function pictureField(option, id) {
  let picture = null;
  const control = h("input", { type: "file", id, accept: "image/*" });
  const name = h("span", { class: "muted" });
  control.addEventListener("change", async () => {
    picture = null;
    const [file] = control.files;
    if (!file) return;
    try {
      picture = (await api.sendPicture(file)).id;
      name.textContent = "";
    } catch (error) {
      control.value = "";
      announce(error.message, { error: true });
    }
  });
  const set = (value) => {
    picture = value ?? null;
    control.value = "";
    name.textContent = value ? "as before" : "";
  };
  return { control, extra: name, value: () => picture ?? undefined, set };
}

function text(value) {
  return value === null || value === undefined ? "" : `${value}`;
}

// Target phrases, one row each. The component's value is {targets: [{text, weight, on}], known: [...]}; the page's DOM is
// built with textContent and input values only, never from a template, so that no phrase can become markup.
const list = element.querySelector('.spf-chip-list');
const known = element.querySelector('.spf-chip-known');
const adder = element.querySelector('.spf-chip-add');
const words = element.querySelector('.spf-chips').dataset;
const opened = new Set();  // texts of phrases whose weight is being set

const state = () => ({
  targets: (props.value?.targets ?? []).map((target) => ({ ...target })), known: [...(props.value?.known ?? [])] });
const tidy = (text) => text.split(/\s+/).filter(Boolean).join(' ');

// A phrase is taken over when its field loses the focus, which a press on another button does. Redrawing then would
// move that button away before the press ends, so it waits until the pointer is up.
let pressed = false;
document.addEventListener('pointerdown', () => { pressed = true; }, true);
document.addEventListener('pointerup', () => { pressed = false; }, true);

function change(edit) {
  const next = state();
  edit(next.targets);
  props.value = next;
  redraw();
  setTimeout(() => trigger('input'));
}

function redraw() {
  if (pressed) document.addEventListener('pointerup', () => setTimeout(draw), { once: true });
  else draw();
}

const move = (from, to) => change((targets) => {
  if (to >= 0 && to < targets.length) targets.splice(to, 0, ...targets.splice(from, 1));
});

function textField(target, index) {
  const field = made('input', 'spf-chip-text', '', `${words.edit} ${index + 1}`);
  field.value = target.text;
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') { event.preventDefault(); field.blur(); }
    if (event.key === 'Escape') { field.value = target.text; field.blur(); }
  });
  field.addEventListener('change', () => {
    const text = tidy(field.value);
    change((targets) => (text ? (targets[index].text = text) : targets.splice(index, 1)));
  });
  return field;
}

function sliderRow(target, index, shown) {
  const row = made('span', 'spf-chip-weight');
  const slider = made('input', '', '', `${words.weight} ${target.text}`);
  Object.assign(slider, { type: 'range', min: 0, max: 2, step: 0.05, value: target.weight });
  slider.addEventListener('input', () => { shown.textContent = `\u00d7${Number(slider.value)}`; });
  slider.addEventListener('change', () => change((targets) => { targets[index].weight = Number(slider.value); }));
  const up = made('button', '', '\u2191', `${words.up} ${target.text}`);
  const down = made('button', '', '\u2193', `${words.down} ${target.text}`);
  up.addEventListener('click', () => move(index, index - 1));
  down.addEventListener('click', () => move(index, index + 1));
  row.append(slider, up, down);
  return row;
}

function chip(target, index) {
  const box = made('div', `spf-chip${target.on ? '' : ' spf-off'}`);
  const on = made('input', 'spf-chip-on', '', `${words.on} ${target.text}`);
  on.type = 'checkbox';
  on.checked = target.on;
  on.title = on.getAttribute('aria-label');
  on.addEventListener('change', () => change((targets) => { targets[index].on = on.checked; }));
  const weight = made('button', 'spf-chip-times', `\u00d7${target.weight}`, `${words.weight} ${target.text}`);
  weight.setAttribute('aria-expanded', opened.has(target.text));
  weight.addEventListener('click', () => { opened.delete(target.text) || opened.add(target.text); draw(); });
  const remove = made('button', 'spf-chip-remove', '\u00d7', `${words.remove} ${target.text}`);
  remove.addEventListener('click', () => { change((targets) => targets.splice(index, 1)); adder.focus(); });
  box.append(on, textField(target, index), weight, remove);
  if (opened.has(target.text)) box.append(sliderRow(target, index, weight));
  return box;
}

function suggestion(phrase) {
  const button = made('button', '', `+ ${phrase}`);
  button.addEventListener('click', () => change((targets) => targets.push({ text: phrase, weight: 1, on: true })));
  return button;
}

function draw() {
  const { targets, known: phrases } = state();
  list.replaceChildren(...targets.map(chip));
  const left = phrases.filter((phrase) => !targets.some((target) => target.text === phrase));
  known.hidden = left.length === 0;
  known.querySelector('span').replaceChildren(...left.map(suggestion));
}

function add() {
  const text = tidy(adder.value);
  adder.value = '';
  if (text) change((targets) => targets.push({ text, weight: 1, on: true }));
}

adder.addEventListener('keydown', (event) => {
  if (event.key === 'Enter') { event.preventDefault(); add(); }
});
adder.addEventListener('blur', add);  // a phrase that was typed and left without Enter counts, too
watch('value', redraw);
draw();

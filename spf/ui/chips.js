// Target phrases as chips. The component's value is {targets: [...], known: [...]}; the page's DOM is built with
// textContent and input values only, never from a template, so that no phrase can become markup.
const list = element.querySelector('.spf-chip-list');
const known = element.querySelector('.spf-chip-known');
const adder = element.querySelector('.spf-chip-add');
const words = element.querySelector('.spf-chips').dataset;

const state = () => ({ targets: [...(props.value?.targets ?? [])], known: [...(props.value?.known ?? [])] });
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
  if (pressed) document.addEventListener('pointerup', () => setTimeout(draw), { once: true });
  else draw();
}

function chip(phrase, index) {
  const box = document.createElement('span');
  box.className = 'spf-chip';
  const field = document.createElement('input');
  field.value = phrase;
  field.size = Math.max(3, Math.min(phrase.length, 40));
  field.setAttribute('aria-label', `${words.edit} ${index + 1}`);
  field.addEventListener('input', () => { field.size = Math.max(3, Math.min(field.value.length, 40)); });
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') { event.preventDefault(); field.blur(); }
    if (event.key === 'Escape') { field.value = phrase; field.blur(); }
  });
  field.addEventListener('change', () => {
    const text = tidy(field.value);
    change((targets) => (text ? targets.splice(index, 1, text) : targets.splice(index, 1)));
  });
  const remove = document.createElement('button');
  remove.type = 'button';
  remove.textContent = '\u00d7';
  remove.setAttribute('aria-label', `${words.remove} ${phrase}`);
  remove.addEventListener('click', () => { change((targets) => targets.splice(index, 1)); adder.focus(); });
  box.append(field, remove);
  return box;
}

function suggestion(phrase) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = `+ ${phrase}`;
  button.addEventListener('click', () => change((targets) => targets.push(phrase)));
  return button;
}

function draw() {
  const { targets, known: phrases } = state();
  list.replaceChildren(...targets.map(chip));
  const left = phrases.filter((phrase) => !targets.includes(phrase));
  known.hidden = left.length === 0;
  known.querySelector('span').replaceChildren(...left.map(suggestion));
}

function add() {
  const text = tidy(adder.value);
  adder.value = '';
  if (text) change((targets) => targets.push(text));
}

adder.addEventListener('keydown', (event) => {
  if (event.key === 'Enter') { event.preventDefault(); add(); }
  if (event.key === 'Backspace' && adder.value === '') change((targets) => targets.pop());
});
adder.addEventListener('blur', add);  // a phrase that was typed and left without Enter counts, too
watch('value', draw);
draw();

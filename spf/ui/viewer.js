// Pictures side by side or over one another, with one zoom for all. The value is {panes: [{name, title, src}]}.
const root = element.querySelector('.spf-viewer');
const words = root.dataset;
const slots = ['a', 'b', 'c'].map((name) => root.querySelector(`[data-slot="${name}"]`));
const chosen = { a: 'original', b: 'customized', c: 'overlay' };
const view = { zoom: 1, x: 0, y: 0, split: 50 };
let flicker = null;

const panes = () => props.value?.panes ?? [];

function place() {
  for (const image of root.querySelectorAll('.spf-frame img')) {
    image.style.transform = `translate(${view.x}%, ${view.y}%) scale(${view.zoom})`;
  }
  root.style.setProperty('--split', `${view.split}%`);
  root.querySelector('.spf-zoom output').textContent = `${Math.round(view.zoom * 100)} %`;
  root.classList.toggle('spf-zoomed', view.zoom > 1);
}

function zoomTo(zoom) {
  view.zoom = Math.min(8, Math.max(1, zoom));
  pan(0, 0);
}

function pan(dx, dy) {
  const limit = 50 * (view.zoom - 1);
  view.x = Math.min(limit, Math.max(-limit, view.x + dx));
  view.y = Math.min(limit, Math.max(-limit, view.y + dy));
  place();
}

function drawSlot(slot) {
  const select = slot.querySelector('select'), key = slot.dataset.slot;
  const found = panes();
  if (!found.some((pane) => pane.name === chosen[key])) chosen[key] = found[slots.indexOf(slot)]?.name ?? found[0]?.name;
  select.replaceChildren(...found.map((pane) => new Option(pane.title, pane.name, false, pane.name === chosen[key])));
  select.disabled = found.length === 0;
  const pane = found.find((one) => one.name === chosen[key]);
  const image = slot.querySelector('img'), save = slot.querySelector('a'), note = slot.querySelector('.spf-pane-note');
  image.hidden = !pane?.src;
  save.hidden = image.hidden || pane.src.startsWith('data:image/jpeg');  // one that still grows
  note.textContent = pane ? (pane.note ?? '') : '';
  if (!pane?.src) return;
  if (image.getAttribute('src') !== pane.src) image.src = pane.src;
  image.alt = pane.title;
  image.dataset.pane = pane.name;
  save.href = pane.src;
  save.download = `${pane.name}.png`;
}

function mode(name) {
  root.dataset.mode = name;
  for (const button of root.querySelectorAll('.spf-modes button')) {
    button.setAttribute('aria-pressed', button.dataset.mode === name);
  }
  clearInterval(flicker);
  root.classList.remove('spf-second');
  if (name === 'flicker') flicker = setInterval(() => root.classList.toggle('spf-second'), 600);
}

function frameEvents(frame) {
  let from = null;
  frame.addEventListener('pointerdown', (event) => {
    from = event;
    frame.setPointerCapture(event.pointerId);
    if (root.dataset.mode === 'slider' && view.zoom === 1) splitAt(event, frame);
  });
  frame.addEventListener('pointermove', (event) => {
    if (!from) return;
    const box = frame.getBoundingClientRect();
    if (view.zoom > 1) {
      pan(100 * (event.clientX - from.clientX) / box.width, 100 * (event.clientY - from.clientY) / box.height);
    } else if (root.dataset.mode === 'slider') splitAt(event, frame);
    from = event;
  });
  for (const name of ['pointerup', 'pointercancel']) frame.addEventListener(name, () => { from = null; });
  frame.addEventListener('dblclick', () => zoomTo(view.zoom > 1 ? 1 : 2));
  frame.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && view.zoom === 1) return;  // the page scrolls
    event.preventDefault();
    zoomTo(view.zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
  }, { passive: false });
  frame.addEventListener('pointerenter', () => { if (root.dataset.mode === 'hover') root.classList.add('spf-second'); });
  frame.addEventListener('pointerleave', () => { if (root.dataset.mode === 'hover') root.classList.remove('spf-second'); });
}

function splitAt(event, frame) {
  const box = frame.getBoundingClientRect();
  view.split = Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width));
  root.querySelector('.spf-split').value = view.split;
  place();
}

// Where the pictures stand below the form, a press of Generate that was accepted, which disables it, leads to them; one that was
// refused does not, nor does whatever is drawn after the next press of anything.
let accepted = null;
const forget = () => accepted?.disconnect();
document.addEventListener('pointerdown', forget, true);
document.addEventListener('click', (event) => {
  const button = event.target.closest?.('#spf-generate');
  if (!button) return;
  forget();
  accepted = new MutationObserver(() => { if (button.disabled) { forget(); lead(); } });
  accepted.observe(button, { attributes: true, attributeFilter: ['disabled'] });
});

function lead() {
  const form = document.querySelector('.spf-form').getBoundingClientRect(), box = root.getBoundingClientRect();
  if (box.top < form.bottom || box.top < innerHeight / 3) return;  // beside it, or well in view
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  root.scrollIntoView({ behavior: still ? 'auto' : 'smooth', block: 'start' });
}

for (const button of root.querySelectorAll('.spf-modes button')) {
  button.addEventListener('click', () => mode(button.dataset.mode));
}
const [out, reset, closer] = root.querySelectorAll('.spf-zoom button');
out.addEventListener('click', () => zoomTo(view.zoom / 1.5));
reset.addEventListener('click', () => zoomTo(1));
closer.addEventListener('click', () => zoomTo(view.zoom * 1.5));
root.querySelector('.spf-split').addEventListener('input', (event) => { view.split = Number(event.target.value); place(); });
for (const slot of slots) {
  slot.querySelector('select').addEventListener('change', (event) => {
    chosen[slot.dataset.slot] = event.target.value;
    drawSlot(slot);
    document.dispatchEvent(new CustomEvent('spf-pane', { detail: event.target.value }));
  });
  frameEvents(slot.querySelector('.spf-frame'));
}
const draw = () => { slots.forEach(drawSlot); place(); };
watch('value', draw);
mode('side');
draw();

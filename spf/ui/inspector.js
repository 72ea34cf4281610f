// The maps of one result, drawn here from their values: no look at them asks the server for anything.
// The value is null or {title, prompt, tokens, picture, grid, steps, maps: [{key, group, name, note, data, ...}], colors, ...}.
const root = element.querySelector('.spf-inspector');
const words = root.dataset;
const find = (name) => root.querySelector(`[data-part="${name}"]`);
const state = { step: 0, map: 'sfcm', layer: '', opacity: 0.6, threshold: 0, shared: true, playing: null };
let picture = null, colors = null, decoded = new Map();

const value = () => props.value;
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const cells = () => value().grid[0] * value().grid[1];
const mean = () => state.step === 0;

// Values 0..255 of one map at the chosen step, or their mean over all steps.
function values(map) {
  const all = decoded.get(map.layers[state.layer] ? `${map.key}|${state.layer}` : map.key), size = cells();
  if (!mean()) return all.subarray((state.step - 1) * size, state.step * size);
  const sum = new Float32Array(size), count = value().steps.length;
  all.forEach((one, index) => { sum[index % size] += one / count; });
  return sum;
}

const chosen = () => value().maps.find((map) => map.key === state.map) ?? value().maps[0];

function paint(canvas, map, side, opacity, threshold) {
  const [height, width] = value().grid, data = values(map);
  const small = new OffscreenCanvas(width, height), context = small.getContext('2d');
  const image = context.createImageData(width, height);
  const [low, high] = state.shared ? [0, 255] : extent(map);
  data.forEach((one, index) => {
    const color = 3 * Math.round(255 * (one - low) / Math.max(high - low, 1));
    image.data.set([colors[color], colors[color + 1], colors[color + 2], one / 255 < threshold ? 0 : 255 * opacity], 4 * index);
  });
  context.putImageData(image, 0, 0);
  canvas.width = canvas.height = side;
  const target = canvas.getContext('2d');
  target.imageSmoothingEnabled = true;
  if (opacity < 1 || threshold > 0) target.drawImage(picture, 0, 0, side, side);
  target.drawImage(small, 0, 0, side, side);
}

function extent(map) {
  let low = 255, high = 0;
  values(map).forEach((one) => { low = Math.min(low, one); high = Math.max(high, one); });
  return [low, high];
}

const range = (map) => extent(map).map((one) => (one / 255).toFixed(2)).join(' – ');

function card(map) {
  const box = made('button', 'spf-map-card');
  box.dataset.map = map.key;
  const canvas = document.createElement('canvas');
  box.append(canvas, made('span', 'spf-map-name', map.name), made('span', 'spf-hint', map.note ?? ''), made('span', 'spf-hint'));
  box.addEventListener('click', () => { state.map = map.key; draw(); });
  return box;
}

function build() {
  for (const group of ['steps', 'phrases', 'targets']) {
    const maps = value().maps.filter((map) => map.group === group);
    find(group).replaceChildren(...maps.map(card));
    find(`${group}-box`).hidden = maps.length === 0;
  }
  if (!value().layers.includes(state.layer)) state.layer = '';
  find('layers-box').hidden = value().layers.length === 0;
  find('layer').replaceChildren(new Option(words.every, ''), ...value().layers.map((name) => new Option(name, name)));
  find('layer').value = state.layer;
  find('messages').replaceChildren(...value().messages.map((text) => made('p', 'spf-caption spf-warning', text)),
    ...value().remarks.map((text) => made('p', 'spf-quiet', text)));
  find('title').textContent = value().title;
  const scrubber = find('step');
  scrubber.max = value().steps.length;
  state.step = Math.min(state.step, value().steps.length);
  scrubber.value = state.step;
  find('npz').hidden = !value().npz;
  find('npz').href = value().npz ?? '';
}

function prompt() {
  const { start, end } = chosen(), text = value().prompt, mark = made('mark', '');
  let at = start;
  for (const [from, to] of value().tokens.filter(([one, other]) => one >= start && other <= end)) {
    mark.append(text.slice(at, from), made('u', '', text.slice(from, to)));
    at = to;
  }
  mark.append(text.slice(at, end));
  find('prompt').replaceChildren(text.slice(0, start), ...(end > start ? [mark] : []), text.slice(end));
}

function drawCards() {
  for (const box of root.querySelectorAll('.spf-map-card')) {
    const map = value().maps.find((one) => one.key === box.dataset.map);
    paint(box.querySelector('canvas'), map, 112, 1, 0);
    box.lastChild.textContent = range(map);
    box.setAttribute('aria-pressed', map.key === chosen().key);
  }
}

function draw() {
  if (!value() || !picture) return;
  const map = chosen();
  paint(find('canvas'), map, 512, state.opacity, state.threshold);
  find('canvas').setAttribute('aria-label', map.name);
  find('name').textContent = `${map.name} · ${range(map)}`;
  drawTwin(map);
  const { steps } = value();
  find('when').textContent = mean() ? words.mean.replace('{count}', steps.length)
    : words.step.replace('{step}', steps[state.step - 1].step + 1).replace('{t}', steps[state.step - 1].t);
  prompt();
  drawCards();
}

// The same phrase in the original model, beside it.
function drawTwin(map) {
  const twin = value().maps.find((one) => one.key === map.key.replace('phrase_maps', 'original_maps') && one !== map);
  find('twin-box').hidden = find('own-model').hidden = !twin;
  if (!twin) return;
  paint(find('twin'), twin, 512, state.opacity, state.threshold);
  find('twin').setAttribute('aria-label', twin.name);
  find('twin-range').textContent = range(twin);
}

// Which phrase answers strongest at this pixel.
function rank(event) {
  if (!value()) return;
  const box = find('canvas').getBoundingClientRect(), [height, width] = value().grid;
  rankAt(Math.min(width - 1, Math.max(0, Math.floor(width * (event.clientX - box.left) / box.width))),
    Math.min(height - 1, Math.max(0, Math.floor(height * (event.clientY - box.top) / box.height))));
}

function rankStrongest() {
  const data = values(value().maps.find((map) => map.key === 'sfcm')), width = value().grid[1];
  const index = data.indexOf(data.reduce((one, other) => Math.max(one, other), 0));
  rankAt(index % width, Math.floor(index / width));
}

function rankAt(x, y) {
  const width = value().grid[1];
  const rows = value().maps.filter((map) => (map.group !== 'steps' && map.group !== 'originals') || map.key === 'sfcm' || map.key === 'soft_map')
    .map((map) => [values(map)[y * width + x] / 255, map.name]).sort((one, other) => other[0] - one[0]);
  find('ranking').replaceChildren(...rows.map(([strength, name]) => {
    const row = made('li', '');
    const bar = made('span', 'spf-rank-bar');
    bar.style.width = `${100 * strength}%`;
    row.append(made('span', '', name), made('span', '', strength.toFixed(2)), bar);
    return row;
  }));
  find('where').textContent = words.where.replace('{x}', x).replace('{y}', y);
}

function play() {
  if (state.playing) { clearInterval(state.playing); state.playing = null; }
  else {
    state.playing = setInterval(() => {
      if (!value()?.steps.length) return;
      state.step = state.step % value().steps.length + 1;
      find('step').value = state.step;
      draw();
    }, 700);
  }
  find('play').textContent = state.playing ? words.pause : words.play;
  find('play').setAttribute('aria-pressed', Boolean(state.playing));
}

async function load() {
  root.hidden = !value();
  element.querySelector('.spf-inspector-empty').hidden = Boolean(value());
  if (!value()) return;
  colors = bytes(value().colors);
  decoded = new Map(value().maps.flatMap((map) => [[map.key, bytes(map.data)],
    ...Object.entries(map.layers).map(([name, data]) => [`${map.key}|${name}`, bytes(data)])]));
  const image = new Image();
  image.src = value().picture;
  await image.decode();
  picture = image;
  build();
  draw();
  rankStrongest();
}

find('step').addEventListener('input', (event) => { state.step = Number(event.target.value); draw(); });
find('opacity').addEventListener('input', (event) => { state.opacity = Number(event.target.value); draw(); });
find('threshold').addEventListener('input', (event) => {
  state.threshold = Number(event.target.value);
  find('threshold-value').textContent = state.threshold.toFixed(2);
  draw();
});
find('layer').addEventListener('change', (event) => { state.layer = event.target.value; draw(); });
find('shared').addEventListener('change', (event) => {
  state.shared = event.target.checked;
  find('legend').hidden = !state.shared;
  find('own').hidden = state.shared;
  draw();
});
find('play').addEventListener('click', play);
find('png').addEventListener('click', () => {
  const link = Object.assign(document.createElement('a'), { href: find('canvas').toDataURL('image/png') });
  link.download = `${chosen().key.replace(':', '-')}.png`;
  link.click();
});
find('canvas').addEventListener('pointermove', rank);
find('canvas').addEventListener('pointerdown', rank);
watch('value', load);
load();

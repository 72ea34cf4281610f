
// One button for each seed. The value is {pairs: [{folder, name, label, current, pictures}]}.
const root = element.querySelector('.spf-together');
const grid = root.querySelector('.spf-pair-grid');

function cell(pair) {
  const button = made('button', 'spf-pair', '', pair.name);
  for (const source of pair.pictures) button.append(Object.assign(made('img', ''), { src: source, alt: '', loading: 'lazy' }));
  button.append(made('span', '', pair.label));
  if (pair.current) button.setAttribute('aria-current', 'true');
  button.addEventListener('click', () => trigger('select', { folder: pair.folder }));
  return button;
}

function draw() {
  const pairs = props.value?.pairs ?? [];
  root.hidden = pairs.length < 2;
  grid.replaceChildren(...pairs.map(cell));
}

watch('value', draw);
draw();

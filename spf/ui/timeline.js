// The steps of customizing one portrait as a tree of thumbnails. The value is {steps: [...], undo, redo, download}.
const root = element.querySelector('.spf-timeline');
const words = root.dataset;
const tree = root.querySelector('.spf-tree');
const [undo, redo, strip] = root.querySelectorAll('.spf-timeline-bar button');
let downloaded = null;

function drawStep(step) {
  const box = made('div', `spf-step${step.current ? ' spf-current' : ''}${step.first ? '' : ' spf-follows'}`);
  if (step.drop > 0) { box.classList.add('spf-branch'); box.style.setProperty('--drop', step.drop); }
  box.style.gridRow = step.row + 1;
  box.style.gridColumn = step.column + 1;
  const open = made('button', 'spf-step-open');
  const image = made('img', '');
  Object.assign(image, { src: step.src, alt: '', loading: 'lazy' });
  open.append(image, made('span', '', step.label));
  open.title = step.title;
  open.setAttribute('aria-label', `${step.number}: ${step.title}`);
  if (step.current) open.setAttribute('aria-current', 'step');
  open.addEventListener('click', () => trigger('select', { step: step.id }));
  const pin = made('button', 'spf-step-pin', step.pinned ? words.pinned : words.pin);
  pin.setAttribute('aria-pressed', step.pinned);
  pin.setAttribute('aria-label', `${words.pin} ${step.number}`);
  pin.addEventListener('click', () => trigger('pin', { step: step.id }));
  box.append(open, pin);
  return box;
}

// Into view along the row alone: scrollIntoView would move the page away from the pictures, too.
function reveal(step) {
  if (!step) return;
  const left = step.offsetLeft - tree.offsetLeft, right = left + step.offsetWidth;
  if (left < tree.scrollLeft) tree.scrollLeft = left;
  else if (right > tree.scrollLeft + tree.clientWidth) tree.scrollLeft = right - tree.clientWidth;
}

function draw() {
  const { steps = [], undo: before, redo: after, download } = props.value ?? {};
  root.hidden = steps.length === 0;
  document.dispatchEvent(new CustomEvent('spf-steps', { detail: steps.length }));
  undo.disabled = !before;
  redo.disabled = !after;
  tree.replaceChildren(...steps.map(drawStep));
  reveal(tree.querySelector('.spf-current'));
  if (download && download !== downloaded) {
    downloaded = download;
    const link = Object.assign(made('a', ''), { href: download, download: download.split('/').pop() });
    root.append(link);
    link.click();
    link.remove();
  }
}

undo.addEventListener('click', () => trigger('undo'));
redo.addEventListener('click', () => trigger('redo'));
strip.addEventListener('click', () => trigger('strip'));
watch('value', draw);
draw();

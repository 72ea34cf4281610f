
// Every number of the tables is a button that tells its line, and the heading that the table stands under. Tab reaches one number
// of each table, the arrow keys the others; Escape leads from the pictures back to the number.
const stage = element.closest('.spf-stage');
const pictures = document.getElementById('spf-results-pictures');
const GRID = '#spf-results-table table';
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
                Home: [0, -Infinity], End: [0, Infinity] };
let pressed = null;
pictures.tabIndex = -1;
pictures.setAttribute('role', 'region');
pictures.setAttribute('aria-label', props.words.behind);

function headingOf(table) {
  let before = table;
  while (before && !/^H[1-6]$/.test(before.tagName)) {
    before = before.previousElementSibling ?? before.parentElement.closest('#spf-results-table *');
  }
  return before?.innerText ?? '';
}

function prepare(table) {
  table.setAttribute('role', 'grid');
  table.setAttribute('aria-label', headingOf(table));
  for (const cell of table.querySelectorAll('td + td')) {
    if (!/\d/.test(cell.textContent)) continue;
    const line = cell.parentElement.cells[0].textContent, column = table.rows[0].cells[cell.cellIndex].textContent;
    const button = made('button', 'spf-number');
    button.setAttribute('aria-label', `${cell.textContent}, ${line}, ${column}: ${props.words.open}`);
    button.tabIndex = -1;
    button.append(...cell.childNodes);
    cell.append(button);
  }
  const first = table.querySelector('.spf-number');
  if (first) first.tabIndex = 0;
}

function reach(button) {
  for (const other of button.closest('table').querySelectorAll('.spf-number[tabindex="0"]')) other.tabIndex = -1;
  button.tabIndex = 0;
}

function press(button) {
  pressed = button;
  reach(button);
  pictures.focus({ preventScroll: true });
  pictures.scrollIntoView({ block: 'start' });
  trigger('select', { line: button.closest('tr').cells[0].innerText, heading: headingOf(button.closest('table')) });
}

function neighbour(button, [down, right]) {
  const cell = button.parentElement, rows = [...button.closest('table').rows];
  if (down) return rows[rows.indexOf(cell.parentElement) + down]?.cells[cell.cellIndex]?.querySelector('.spf-number');
  const all = [...cell.parentElement.querySelectorAll('.spf-number')];
  return all[Math.min(all.length - 1, Math.max(0, all.indexOf(button) + right))];
}

stage.addEventListener('click', (event) => {
  const button = event.target.closest('.spf-number');
  if (button) press(button);
});
stage.addEventListener('keydown', (event) => {
  const button = event.target.closest('.spf-number'), step = STEPS[event.key];
  if (event.key === 'Escape' && pressed?.isConnected && pictures.contains(event.target)) {
    event.stopPropagation();  // it would cancel a portrait under way
    pressed.focus();
  }
  if (!button || !step || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const next = neighbour(button, step);
  if (!next) return;
  reach(next);
  next.focus();
});
const prepareAll = () => document.querySelectorAll(`${GRID}:not([role])`).forEach(prepare);
new MutationObserver(prepareAll).observe(stage, { childList: true, subtree: true });
prepareAll();


// A press on a number of the table tells which one: its line, and the heading that it stands under.
document.addEventListener('click', (event) => {
  const cell = event.target.closest?.('#spf-results-table td + td');
  if (!cell) return;
  let before = cell.closest('table');
  while (before && !/^H[1-6]$/.test(before.tagName)) {
    before = before.previousElementSibling ?? before.parentElement.closest('#spf-results-table *');
  }
  document.getElementById('spf-results-figures')?.scrollIntoView({ block: 'nearest' });
  trigger('select', { line: cell.parentElement.cells[0].innerText, heading: before?.innerText ?? '' });
});

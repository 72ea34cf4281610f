// Theme, keyboard and the first visit. Everything that is remembered stays in this browser.
const sheet = element.querySelector('dialog');
const guide = element.querySelector('.spf-guide');
const press = (selector) => document.querySelector(selector)?.click();

function theme(dark) {
  document.body.classList.toggle('dark', dark);
  localStorage.setItem('spf-theme', dark ? 'dark' : 'light');
}

const kept = localStorage.getItem('spf-theme');
if (kept && !new URLSearchParams(location.search).has('__theme')) theme(kept === 'dark');
element.querySelector('[data-act="theme"]').addEventListener('click', () => theme(!document.body.classList.contains('dark')));
element.querySelector('[data-act="keys"]').addEventListener('click', () => sheet.showModal());
element.querySelector('[data-act="close"]').addEventListener('click', () => sheet.close());

// The guide ticks off what was done. It is over for good when it is sent away, or at the next visit after all was done.
const tabs = JSON.parse(element.querySelector('header').dataset.tabs);
const steps = [...guide.querySelectorAll('li')];
const finish = () => { localStorage.setItem('spf-guide', 'done'); guide.hidden = true; };
guide.hidden = localStorage.getItem('spf-guide') === 'done';
const doneBefore = guide.hidden ? [] : (localStorage.getItem('spf-guide') ?? '').split(',').filter(Boolean);
doneBefore.forEach((number) => { steps[number].dataset.done = ''; });

function did(number) {
  if (guide.hidden) return;
  steps[number].dataset.done = '';
  const done = steps.map((step, index) => ('done' in step.dataset ? index : '')).filter((index) => index !== '');
  localStorage.setItem('spf-guide', done.length === steps.length ? 'done' : done.join(','));
}

document.addEventListener('spf-steps', ({ detail }) => { if (detail > 0) did(0); if (detail > 1) did(1); });
document.addEventListener('spf-pane', ({ detail }) => { if (detail === 'pollution') did(2); });
document.addEventListener('click', (event) => {
  const name = event.target.closest?.('#spf-tabs [role="tab"], #spf-tabs .overflow-dropdown button')?.textContent.trim();
  if (!tabs.includes(name)) return;
  guide.classList.toggle('spf-elsewhere', name !== tabs[0]);
  if (name === tabs[2]) did(3);
});
element.querySelector('[data-act="done"]').addEventListener('click', finish);
element.querySelector('[data-act="try"]').addEventListener('click', () => press('#spf-generate'));

// By its name: in a narrow window some tabs are in the menu at the end of the row, and the others have moved up.
function openTab(number) {
  const name = tabs[number - 1];
  const places = document.querySelectorAll('#spf-tabs [role="tab"], #spf-tabs .overflow-dropdown button');
  [...places].find((place) => place.textContent.trim() === name)?.click();
}

document.addEventListener('keydown', (event) => {
  const writing = event.target.closest?.('input:not([type="range"]):not([type="checkbox"]), textarea, [contenteditable="true"]');
  const command = event.ctrlKey || event.metaKey;
  if (sheet.open) return;
  if (command && event.key === 'Enter') { event.target.blur?.(); setTimeout(() => press('#spf-generate')); }
  else if (event.key === 'Escape' && !writing) press('#spf-cancel:not([disabled])');
  else if (writing) return;
  else if (command && event.key.toLowerCase() === 'z') {
    event.preventDefault();
    press(`.spf-timeline-bar button:nth-of-type(${event.shiftKey ? 2 : 1})`);
  } else if (event.key === '?') sheet.showModal();
  else if (/^[1-9]$/.test(event.key) && !command && !event.altKey) {
    openTab(Number(event.key));
  } else return;
});

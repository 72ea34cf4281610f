
// A refusal is also said beside the field that caused it. `props.fields` names the element of each field of the schema,
// as "element" or "accordion/element"; the notice names the field.
let mark = null, turn = 0;

function clear() {
  turn += 1;
  if (!mark) return;
  for (const input of mark.parentElement?.querySelectorAll('[aria-describedby]') ?? []) {
    if (input.getAttribute('aria-describedby') !== mark.id) continue;
    input.removeAttribute('aria-describedby');
    input.removeAttribute('aria-invalid');
  }
  mark.remove();
  mark = null;
}

function place() {
  clear();
  const notice = element.querySelector('[data-field]');
  const path = notice && props.fields?.[notice.dataset.field];
  if (path) find(path.split('/'), notice.querySelector('p').textContent, turn, 10);
}

// What stands in an accordion that was never opened is not there yet.
function find(path, text, now, tries) {
  if (now !== turn) return;
  const target = document.getElementById(path.at(-1)), holder = path.length > 1 && document.getElementById(path[0]);
  if (target?.checkVisibility()) say(target, text);
  else if (tries) {
    if (tries === 10 && holder) holder.querySelector(':scope > button')?.click();
    setTimeout(() => find(path, text, now, tries - 1), 100);
  }
}

function say(target, text) {
  mark = made('p', 'spf-field-problem', text.slice(text.indexOf(': ') + 2));
  mark.id = `${target.id}-problem`;
  target.append(mark);
  const input = target.querySelector('input:not([type="checkbox"]), textarea');
  input?.setAttribute('aria-invalid', 'true');
  input?.setAttribute('aria-describedby', mark.id);
  target.addEventListener('input', clear, { once: true });
}

watch('value', () => setTimeout(place));


// A refusal is also said beside the field that caused it. `props.fields` names the element of each field of the schema,
// as "element" or "fold/element"; the notice names the field.
let mark = null;

function clear() {
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
  if (!path) return;
  const [target, fold] = path.split('/').reverse().map((id) => document.getElementById(id));
  if (target && !target.checkVisibility()) fold?.querySelector('button[aria-expanded="false"]')?.click();
  if (target) say(target, notice.querySelector('p').textContent);
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
setTimeout(place);  // of a page that opens with a notice

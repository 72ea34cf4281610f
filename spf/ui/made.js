// An element with text, never markup. A label is what a screen reader says; a button shows it under the pointer, too.
function made(tag, name, content = '', label = '') {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = content;
  if (tag === 'button') node.type = 'button';
  if (label) { node.setAttribute('aria-label', label); if (tag === 'button') node.title = label; }
  return node;
}


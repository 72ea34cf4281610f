// The button of `wiring.fold`: the sheet hides what stands under one that is not expanded.
const button = element.querySelector('button');
button.addEventListener('click', () => button.setAttribute('aria-expanded', button.getAttribute('aria-expanded') === 'false'));

// What readers expect of a chat page and Streamlit does not do. Runs once in a tab; listens to the whole page.

const PHONE = window.matchMedia('(max-width: 768px)');
const BOX = '[data-testid="stChatInputTextArea"]';
const SEND = '[data-testid="stChatInputSubmitButton"]';
const STEP = '[class*="st-key-icon_before_"] button, [class*="st-key-icon_after_"] button';
const BUSY = '[data-test-script-state="running"]';
const GOES_ELSEWHERE = '[class*="st-key-open_"] button, .st-key-new_chat button, '
  + '[data-testid="stSidebar"] a';

// Enter and Escape that belong to an input method are nobody else's. Safari sends the Enter that ends a composition
// behind its end, known by its code alone.
function leaveToInputMethod(event) {
  const mine = event.key === 'Enter' || event.key === 'Escape';
  if (mine && (event.isComposing || event.keyCode === 229)) event.stopImmediatePropagation();
}

// On a phone the sidebar lies over the page: what was chosen there is to be seen.
function goElsewhere(event) {
  if (!event.target.closest(GOES_ELSEWHERE)) return;
  follow.on = true;
  if (PHONE.matches) document.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
}

// The page follows the text while its reader is at the bottom. Streamlit's own following misses those who leave the
// bottom or come back to it in the moment when text is added, and pulls back whoever is carried away by anything but a
// wheel (the focus, a search in the page): it may not scroll.
const follow = { main: null, content: null, on: true, pressed: false, top: 0, held: 0, aim: 0, until: 0 };
const SCROLL_TOP = Object.getOwnPropertyDescriptor(Element.prototype, 'scrollTop');
const following = () => follow.on && !follow.pressed && performance.now() > follow.held;
const toTheEnd = () => follow.main?.scrollTo({ top: follow.main.scrollHeight, behavior: 'instant' });

// What the page's own changes move, as when a part goes and comes back, is no movement of the reader: `scrolled` hears
// of it in the next frame only, so where it left the page is noted at once.
function changed() {
  if (!follow.main) return;
  if (following()) toTheEnd();
  follow.top = follow.main.scrollTop;
}
const resized = new ResizeObserver(changed);
const mutated = new MutationObserver(changed);

function scrolled() {
  const { main } = follow;
  // What was the bottom when the reader set out for it counts too: text may have been added on the way.
  const end = performance.now() < follow.until ? Math.min(follow.aim, main.scrollHeight) : main.scrollHeight;
  if (end - main.clientHeight - main.scrollTop < 8) follow.on = true;
  else if (main.scrollTop < follow.top - 1) follow.on = false;
  follow.top = main.scrollTop;
}

// What is pressed stays under the pointer: a click has to end where it began, and a selection too.
function pressed(event) {
  if (event.target !== follow.main) follow.pressed = true; // else its scroll bar, whose release is not always told
}

function released(event) {
  if (!follow.pressed || event.buttons) return;
  follow.pressed = false;
  setTimeout(changed); // the click comes first
}

function setOut() {
  Object.assign(follow, { aim: follow.main.scrollHeight, until: performance.now() + 1000 });
}

// Streamlit makes the elements anew from time to time, as when one goes to another page; and it says only to its own
// element whether the page is dark, not to the dialogs beside it.
function keepUp() {
  const app = document.querySelector('.stApp');
  const scheme = app ? getComputedStyle(app).colorScheme : '';
  if (document.documentElement.style.colorScheme !== scheme) document.documentElement.style.colorScheme = scheme;
  const main = document.querySelector('[data-testid="stAppScrollToBottomContainer"]');
  const content = main?.querySelector('[data-testid="stMainBlockContainer"]');
  if (main && main !== follow.main) {
    main.addEventListener('scroll', scrolled, { passive: true });
    for (const kind of ['wheel', 'touchmove', 'keydown']) main.addEventListener(kind, setOut, { passive: true });
    main.addEventListener('pointerdown', pressed, { passive: true });
    Object.defineProperty(main, 'scrollTop', {
      get: () => SCROLL_TOP.get.call(main),
      set: () => {},
    });
  }
  if (content !== follow.content) {
    for (const observer of [resized, mutated]) observer.disconnect();
    if (content) {
      resized.observe(content);
      mutated.observe(content, { childList: true, characterData: true, attributes: true, subtree: true });
    }
  }
  if (main !== follow.main) follow.top = 0;
  Object.assign(follow, { main, content });
}

// Whoever asks wants to see the answer, wherever they were reading.
function showTheEnd() {
  follow.on = true;
  toTheEnd();
}

function sending(event) {
  const box = event.target.closest?.(BOX);
  if (event.key === 'Enter' && !event.shiftKey && box?.value.trim()) showTheEnd();
}

// Another version may be longer or shorter, and so may all that is below it: the arrow that was pressed stays put.
function holdStep(event) {
  const pressed = event.target.closest(STEP);
  const message = pressed?.closest('[data-testid="stChatMessage"]');
  const { main } = follow;
  if (!main || !message) return;
  const number = [...document.querySelectorAll('[data-testid="stChatMessage"]')].indexOf(message);
  const top = pressed.getBoundingClientRect().top;
  follow.on = false;
  const began = performance.now();
  follow.held = began + 1500;
  for (const kind of ['wheel', 'pointerdown', 'keydown']) {
    main.addEventListener(kind, () => { follow.held = 0; }, { once: true, passive: true });
  }
  const hold = () => {
    if (performance.now() > follow.held) return;
    const settled = Math.min(performance.now() + 500, began + 10_000);
    if (document.querySelector(BUSY)) follow.held = Math.max(follow.held, settled);
    const now = document.querySelectorAll('[data-testid="stChatMessage"]')[number]?.querySelector(STEP);
    if (now) main.scrollBy({ top: now.getBoundingClientRect().top - top, behavior: 'instant' });
    requestAnimationFrame(hold);
  };
  requestAnimationFrame(hold);
}

// Browsers give pages a clipboard only on https and localhost; elsewhere a selected text area does it.
async function writeText(text) {
  const focused = document.activeElement;
  const area = document.createElement('textarea');
  area.value = text;
  area.style.position = 'fixed';
  area.style.opacity = '0';
  document.body.appendChild(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  focused?.focus({ preventScroll: true });
  if (!done) throw new Error('not copied');
}

// That a session is over is told to Streamlit's scripts alone, which try again for ever: its reader is to sign in.
function noticeEnd(list) {
  const shut = list.getEntries().some((each) => each.responseStatus === 401 && each.name.includes('/_stcore/'));
  if (shut) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

export default function ({ data }) {
  document.documentElement.lang = data.language; // for readers' voices, and for the shapes of Chinese characters
  if (window.bluelmHabits) return;
  window.bluelmHabits = true;
  if (!navigator.clipboard) Object.defineProperty(navigator, 'clipboard', { value: { writeText } });
  setInterval(keepUp, 300);
  new PerformanceObserver(noticeEnd).observe({ type: 'resource' });
  window.addEventListener('keydown', leaveToInputMethod, true);
  document.addEventListener('keydown', sending, true);
  for (const kind of ['pointerup', 'pointercancel', 'pointermove']) {
    document.addEventListener(kind, released, { capture: true, passive: true });
  }
  document.addEventListener('click', (event) => {
    goElsewhere(event);
    if (event.target.closest(SEND)) showTheEnd();
  });
  document.addEventListener('click', holdStep, true);
}

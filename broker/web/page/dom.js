// The page's elements, the format of numbers and times, and the clipboard.

export const $ = (id) => document.getElementById(id);
export const text = (value) => (value === null || value === undefined ? "" : String(value));
export const clone = (id) => $(id).content.firstElementChild.cloneNode(true);
export const number = new Intl.NumberFormat("en");
export const counted = (n, word) => `${number.format(n)} ${word}${n === 1 ? "" : "s"}`;
export const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});

export async function copy(words, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    done = copyByHand(words, button); // browsers offer no clipboard to a page from another host over plain HTTP
  }
  button.dataset.label ??= button.textContent;
  button.textContent = done ? "Copied" : "Not allowed";
  setTimeout(() => (button.textContent = button.dataset.label), 1500);
}

function copyByHand(words, button) {
  const area = document.createElement("textarea");
  area.value = words;
  button.after(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  button.focus();
  return done;
}

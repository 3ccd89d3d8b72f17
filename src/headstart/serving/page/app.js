// Shows what the service answers for photos that are dropped, pasted, chosen or taken.

const TOP = 5;
const MOST = 200; // photos at a time
const TOGETHER = 4; // of them under way
const LONGEST = 40_000; // milliseconds: longer than the service itself waits
const TRIES = 4; // of a service that says that it is busy

const find = (id) => document.getElementById(id);
const percent = (share) =>
  share > 0.9995 ? "over 99.9 %" : share < 0.0005 ? "under 0.1 %" : `${(100 * share).toFixed(share > 0.01 && share < 0.99 ? 0 : 1)} %`;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

let token = sessionStorage.getItem("token") ?? "";
let waiting = []; // photos that were given before the token was

class Refusal extends Error {}

async function asked(path, body) {
  for (let left = TRIES; ; left--) {
    const reply = await once(path, body);
    if (reply.status !== 503 || left <= 1) return reply;
    await pause(Math.min(5, Number(reply.headers.get("retry-after")) || 1));
  }
}

async function once(path, body) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let reply;
  try {
    reply = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal: AbortSignal.timeout(LONGEST) });
  } catch (problem) {
    throw new Refusal(problem.name === "TimeoutError" ? "The service did not answer in time." : "The service cannot be reached.");
  }
  if (reply.status === 401) {
    askForToken();
    throw new Refusal(token ? "The service does not take this token." : "");
  }
  return reply;
}

async function reason(reply) {
  const said = await reply.json().catch(() => ({}));
  if (reply.status === 503) return "The service is busy. Try again in a moment.";
  return said.error ? [said.error, said.hint].filter(Boolean).join("; ") : `The service answered with status ${reply.status}.`;
}

function askForToken() {
  find("token-form").hidden = false;
  find("token").focus();
}

function tell(text, wrong = false) {
  find("status").textContent = wrong ? "" : text;
  find("problem").textContent = wrong ? text : "";
}

// ---- photos

async function take(files) {
  const photos = [...files].slice(0, MOST);
  if (!photos.length) return;
  tell(photos.length === 1 ? "Looking at the photo …" : `Looking at ${photos.length} photos …`);
  const cards = photos.map(card);
  find("answers").prepend(...cards.map((each) => each.element));
  find("clear").hidden = false;
  cards[0].element.scrollIntoView?.({ block: "nearest" });
  const rest = cards.map((each, place) => async () => answer(each, photos[place]));
  const said = [];
  const lane = async () => {
    while (rest.length) {
      said.push(await rest.shift()());
      if (photos.length > 1) find("status").textContent = `${said.length} of ${photos.length} photos looked at`;
    }
  };
  await Promise.all(Array.from({ length: TOGETHER }, lane));
  const heard = said.filter(Boolean);
  if (heard.length === 1 && photos.length === 1) tell(heard[0]);
  else if (heard.length) tell(`${heard.length} of ${photos.length} photos answered`);
  if (files.length > MOST) tell(`Only the first ${MOST} of ${files.length} photos were looked at.`, true);
}

// Each photo is a request of its own: so the first answer comes soon, and many large photos are not too much at once.
async function answer(shown, photo) {
  const body = new FormData();
  body.append("file", photo, photo.name || "photo");
  shown.wait();
  try {
    const reply = await asked(`predict?top_k=${TOP}`, body);
    const said = await reply.clone().json().catch(() => ({}));
    const [row] = Array.isArray(said) ? said : (said.photos ?? []);
    if (!row) throw new Refusal(await reason(reply));
    shown.show(row);
    return row.error ? `Not read: ${row.error}` : words(row);
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    if (find("token-form").hidden) {
      shown.fail(problem.message, () => answer(shown, photo).then((said) => said && tell(said)));
    } else {
      shown.element.remove();
      waiting.push(photo);
    }
    tell(problem.message, true);
    return "";
  }
}

function words(answer) {
  return answer.unsure ? `Unsure, perhaps ${answer.label}` : `${answer.label}, ${percent(answer.probability)} sure`;
}

function card(photo) {
  const element = find("card").content.cloneNode(true).firstElementChild;
  const part = (selector) => element.querySelector(selector);
  const source = URL.createObjectURL(photo);
  part(".photo").src = source;
  part(".photo").alt = photo.name ? `Your photo ${photo.name}` : "Your photo";
  part("figcaption").textContent = photo.name ?? "";
  part(".photo").addEventListener("error", () => (part(".photo").hidden = true)); // what a browser cannot show may still be read
  return {
    element,
    wait: () => wait(element, true, "Looking …"),
    show: (answer) => show(element, photo, answer),
    fail: (why, again) => fail(element, why, again),
  };
}

function wait(element, busy, title) {
  element.classList.toggle("busy", busy);
  element.setAttribute("aria-busy", String(busy));
  element.classList.remove("refused");
  element.querySelector("h2").textContent = title;
  element.querySelector(".sure").textContent = "";
  element.querySelector(".again").hidden = true;
}

// The photo stays, so that nobody has to choose it once more.
function fail(element, why, again) {
  wait(element, false, "No answer yet");
  element.classList.add("refused");
  element.querySelector(".sure").textContent = why;
  element.querySelector(".again").hidden = false;
  element.querySelector(".again").onclick = again;
}

function show(element, photo, answer) {
  const part = (selector) => element.querySelector(selector);
  wait(element, false, answer.error ? "This photo cannot be read" : answer.unsure ? "Unsure" : answer.label);
  if (answer.error) {
    element.classList.add("refused");
    part(".sure").textContent = answer.error;
    return;
  }
  element.classList.toggle("unsure", answer.unsure);
  part(".sure").textContent = answer.unsure
    ? `This photo is unlike those that the model learnt from. The nearest answer is ${answer.label}.`
    : `${percent(answer.probability)} sure`;
  const explained = { label: null, pictures: new Map() };
  for (const { label, probability } of answer.top) {
    part(".others").append(choice(label, probability, () => toggle(element, photo, explained, label)));
  }
  part(".why").hidden = false;
  part(".why").addEventListener("click", () => toggle(element, photo, explained, explained.label ?? answer.label));
}

function choice(label, probability, chosen) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const [name, share, meter] = ["span", "span", "meter"].map((tag) => document.createElement(tag));
  button.type = "button";
  button.dataset.label = label;
  button.title = "Show what in the photo speaks for this";
  button.setAttribute("aria-pressed", "false");
  name.className = "name";
  name.textContent = label;
  share.className = "share";
  share.textContent = percent(probability);
  meter.value = probability;
  meter.setAttribute("aria-hidden", "true");
  button.append(name, share, meter);
  button.addEventListener("click", chosen);
  item.append(button);
  return item;
}

// ---- why

async function toggle(element, photo, explained, label) {
  const part = (selector) => element.querySelector(selector);
  const off = explained.label === label;
  explained.label = off ? null : label;
  part(".why").textContent = off ? "Show why" : "Hide why";
  for (const button of element.querySelectorAll(".others button")) {
    button.setAttribute("aria-pressed", String(button.dataset.label === explained.label));
  }
  part(".heat").hidden = true;
  part(".photo").hidden = false;
  part(".method").textContent = "";
  if (off) return;
  element.classList.add("busy");
  try {
    if (!explained.pictures.has(label)) explained.pictures.set(label, await heat(photo, label));
    if (explained.label !== label) return; // another was chosen meanwhile
    part(".heat").src = explained.pictures.get(label);
    part(".heat").alt = `Heat map over the photo: the warm places speak for ${label}`;
    part(".heat").hidden = false;
    part(".photo").hidden = true;
    part(".method").textContent = `The warm places speak for ${label}. What is dark, the model does not see.`;
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    tell(problem.message, true);
  } finally {
    element.classList.remove("busy");
  }
}

async function heat(photo, label) {
  const body = new FormData();
  body.append("file", photo, photo.name || "photo");
  const reply = await asked(`explain?format=jpeg&label=${encodeURIComponent(label)}`, body);
  if (!reply.ok) throw new Refusal(await reason(reply));
  return URL.createObjectURL(await reply.blob());
}

// ---- camera

let stream = null;

async function camera() {
  if (!navigator.mediaDevices?.getUserMedia || matchMedia("(pointer: coarse)").matches) return find("shot").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return find("shot").click(); // no camera, or not allowed: the system may know another way
  }
  find("video").srcObject = stream;
  find("camera").showModal();
}

function snap() {
  const video = find("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => take([new File([blob], "photo.jpg", { type: blob.type })]), "image/jpeg", 0.95);
  find("camera").close();
}

// ---- what the page listens to

find("choose").addEventListener("click", () => find("files").click());
find("take").addEventListener("click", camera);
find("snap").addEventListener("click", snap);
find("cancel").addEventListener("click", () => find("camera").close());
find("camera").addEventListener("close", () => {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
});
for (const id of ["files", "shot"]) {
  find(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same photo can be chosen again
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData?.files ?? []));
find("clear").addEventListener("click", () => {
  for (const image of document.querySelectorAll("article img[src]")) URL.revokeObjectURL(image.src);
  find("answers").replaceChildren();
  find("clear").hidden = true;
  tell("");
  find("choose").focus();
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || find("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  const files = event.dataTransfer?.files ?? [];
  if (files.length) take(files);
  else tell("That was no file. Save the photo first, then drop it or choose it.", true);
});
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  sessionStorage.setItem("token", token);
  find("token-form").hidden = true;
  tell("");
  introduce();
  take(waiting.splice(0));
});

async function introduce() {
  try {
    const reply = await asked("model");
    if (!reply.ok) return;
    const card = await reply.json();
    const names = card.classes ?? [];
    const shown = names.length > 8 ? `${names.slice(0, 7).join(", ")} and ${names.length - 7} more` : names.join(", ");
    find("about").textContent = `Knows ${names.length} classes: ${shown}.${tested(card.card ?? {})}`;
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    if (problem.message) tell(problem.message, true);
  }
}

function tested({ accuracy, photos }) {
  if (typeof accuracy !== "number" || !photos?.test) return "";
  return ` Of ${photos.test} test photos, it named ${Math.round(accuracy * photos.test)} rightly.`;
}

introduce();

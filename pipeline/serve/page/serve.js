// Sends a clip, follows its job, shows the answer. Whatever is somebody's text is set as text.
const at = (id) => document.getElementById(id);

const headers = () => (at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {});

async function problem(response) {
  const told = await response.json().catch(() => ({}));
  return new Error(told.detail || `the service answers ${response.status}`);
}

async function describe() {
  const response = await fetch("/v1/detector", { headers: headers() });
  at("who").hidden = response.status !== 401 && !at("token").value;
  if (response.status === 401) return;
  if (!response.ok) throw await problem(response);
  const { detector, limits } = await response.json();
  at("limits").textContent = `At most ${Math.round(limits.max_bytes / 1e6)} MB and ${words(limits.max_duration_s)}. `
    + `The clip is deleted when it is scored, the answer after ${words(limits.keep_s)}.`;
  at("worth").textContent = detector.worth;
  at("warnings").replaceChildren(...detector.warnings.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  at("rely").hidden = !detector.warnings.length;
}

const words = (s) => (s < 120 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} minutes` : `${Math.round(s / 3600)} hours`);

function say(text, share) {
  at("status").textContent = text;
  at("progress").hidden = !text;
  if (share === null) at("progress").removeAttribute("value");
  else at("progress").value = share;
}

function send(file) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file, "clip"); // its name stays here
    request.open("POST", "/v1/score");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => say("Sending the clip", event.loaded / event.total);
    request.onerror = () => reject(new Error("the connection was lost"));
    request.onload = () => {
      const told = JSON.parse(request.responseText || "{}");
      if (request.status === 202) resolve(told);
      else reject(new Error(told.detail || `the service answers ${request.status}`));
    };
    request.send(form);
  });
}

// EventSource cannot send a token.
async function* events(id) {
  const response = await fetch(`/v1/jobs/${id}/events`, { headers: headers() });
  if (!response.ok) throw await problem(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}

async function follow(id) {
  for await (const job of events(id)) {
    if (job.result) return job.result;
    if (job.state === "queued") say(job.ahead ? `Waiting: ${job.ahead} before it` : "Waiting", null);
    else say("Looking and listening", job.share);
  }
  throw new Error("the service ended before the answer was there");
}

// The name stays here: the service never knew it.
function named(page, name) {
  const whole = new DOMParser().parseFromString(page, "text/html");
  whole.title = whole.title.replace(/^[^:]*/, () => name);
  whole.querySelector(".file bdi").textContent = name;
  return `<!DOCTYPE html>\n${whole.documentElement.outerHTML}`;
}

// The page of the answer runs no script here, and is as long as it is.
async function show(id, result, file) {
  const response = await fetch(`/v1/jobs/${id}/page`, { headers: headers() });
  if (!response.ok) throw await problem(response);
  const page = named(await response.text(), file.name);
  at("says").textContent = `${file.name}: ${result.answer.says.split(":")[0]}`; // the reasons stand below
  at("says").after(at("rely"));
  at("answer").srcdoc = page;
  const video = at("video");
  for (const old of [video.src, at("save").href]) if (old) URL.revokeObjectURL(old);
  video.hidden = true;
  video.onloadeddata = () => { video.hidden = false; }; // where this browser can play it
  video.src = URL.createObjectURL(file);
  at("save").href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  at("save").download = `${file.name}.html`;
  at("result").hidden = false;
  at("before").hidden = true; // the answer's page has all of it
  at("result").scrollIntoView();
  at("says").focus();
}

at("answer").onload = () => {
  const whole = at("answer").contentDocument.documentElement;
  new ResizeObserver(() => {
    at("answer").style.height = `${Math.ceil(whole.getBoundingClientRect().height) + 2}px`;
  }).observe(whole);
};

async function score(file) {
  at("problem").hidden = at("result").hidden = true;
  at("go").disabled = true;
  try {
    say("Sending the clip", 0);
    const { id } = await send(file);
    await show(id, await follow(id), file);
  } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
    await describe().catch(() => {});
  } finally {
    say("", 0);
    at("go").disabled = false;
  }
}

at("form").onsubmit = (event) => {
  event.preventDefault();
  if (!at("go").disabled) score(at("file").files[0]);
};
at("token").onchange = () => describe().catch(() => {});
const drop = at("drop");
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (!event.dataTransfer.files.length) return;
  at("file").files = event.dataTransfer.files;
  at("form").requestSubmit();
});
describe().catch((error) => { at("problem").textContent = error.message; at("problem").hidden = false; });

// Calls of the server; docs/studio.md describes them.

/** An error response of the server; `message` says what to do. */
export class ApiError extends Error {
  constructor(message, status, argument = null) {
    super(message);
    this.status = status;
    this.argument = argument;
  }
}

async function call(method, path, body) {
  const options = { method };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ApiError("The server does not answer; check that `smcd studio` is running.", 0);
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new ApiError(content.error ?? `The server answered ${response.status}.`, response.status, content.argument);
  }
  return content;
}

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
}

/** Version, limits and models. */
export const getInfo = () => call("GET", "/api/info");

/** Sends a picture; returns its id, width, height and name. */
export const sendPicture = (file) => call("POST", "/api/pictures", form({ file }));

/** Address of a picture, turned upright. */
export const pictureUrl = (id) => `/api/pictures/${encodeURIComponent(id)}`;

/** Filled background and cutouts for the first boxes (0..1) of the objects. */
export const getLayers = (id, boxes) => call("POST", `${pictureUrl(id)}/layers`, { boxes });

/** Reads a file of tracks in any format that `smcd tracks` reads. */
export const importTracks = (file, { width, height, frames }) =>
  call("POST", "/api/tracks/import", form({ file, picture_width: width, picture_height: height, num_frames: frames }));

/** Warnings about tracks for a model. */
export const checkTracks = (tracks, model) => call("POST", "/api/tracks/check", { tracks, model });

/** Names of the shipped examples, and one of them as a picture and tracks. */
export const getExamples = () => call("GET", "/api/examples");
export const openExample = (name) => call("POST", `/api/examples/${encodeURIComponent(name)}`);

/** Jobs: start, list, cancel. */
export const startJob = (request) => call("POST", "/api/jobs", request);
export const getJobs = () => call("GET", "/api/jobs");
export const cancelJob = (id) => call("DELETE", `/api/jobs/${encodeURIComponent(id)}`);

/** States after which a job does not change any more. */
export const FINAL_STATES = ["done", "failed", "cancelled"];

/**
 * Follows a job until a final state.
 * @param {string} id
 * @param {(job: Object) => void} onJob Called with each new state.
 * @param {() => void} onLost Called when the connection is lost; the browser connects again by itself.
 * @returns {() => void} Stops following; the job continues.
 */
export function followJob(id, onJob, onLost) {
  const source = new EventSource(`/api/jobs/${encodeURIComponent(id)}/events`);
  source.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    if (FINAL_STATES.includes(job.state)) source.close();
    onJob(job);
  });
  source.addEventListener("error", onLost);
  return () => source.close();
}

/** History of the output folder. */
export const getHistory = () => call("GET", "/api/history");
export const getEntry = (id) => call("GET", `/api/history/${encodeURIComponent(id)}`);
export const deleteEntry = (id) => call("DELETE", `/api/history/${encodeURIComponent(id)}`);

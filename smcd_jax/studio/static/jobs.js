// Running jobs: progress, cancellation and completion.

import * as api from "./api.js";
import { announce, byId, h, keyed } from "./dom.js";

const STAGES = {
  queued: "Waiting",
  loading: "Loading the model",
  compiling: "Compiling",
  sampling: "Sampling",
  decoding: "Decoding",
  writing: "Writing files",
  done: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

/** Shows jobs that run, and failed ones until they are dismissed. */
export class Jobs {
  /** @param {(job: Object) => void} onDone Called once when a job that this page follows is done. */
  constructor(onDone) {
    this.onDone = onDone;
    this.jobs = new Map();
    this.list = byId("jobs");
  }

  /** Starts a job and follows it. */
  async start(request) {
    this.follow(await api.startJob(request));
    announce("Started. You can keep editing; a closed tab does not stop it.");
  }

  /** Follows the jobs that are still running when the page is opened again. */
  async resume() {
    const { jobs } = await api.getJobs().catch(() => ({ jobs: [] }));
    for (const job of jobs) if (!api.FINAL_STATES.includes(job.state)) this.follow(job);
  }

  follow(job) {
    this.show(job);
    api.followJob(
      job.id,
      (next) => this.show(next),
      () => this.lost(job.id),
    );
  }

  show(job) {
    const before = this.jobs.get(job.id)?.state;
    this.jobs.set(job.id, job);
    if (job.state !== before && before) announce(job.error ?? stageText(job), { error: job.state === "failed" });
    if (job.state === "done" || job.state === "cancelled") this.jobs.delete(job.id);
    this.render();
    if (job.state === "done") this.onDone(job);
  }

  /** Marks a job whose connection is lost; the browser reconnects automatically. */
  lost(id) {
    const job = this.jobs.get(id);
    if (job && !api.FINAL_STATES.includes(job.state))
      byId("jobs").querySelector(`[data-key="${id}"] .stage-name`).textContent = "Connecting …";
  }

  render() {
    keyed(
      this.list,
      [...this.jobs.values()],
      (job) => job.id,
      (job) => this.create(job),
      updateJob,
    );
  }

  create({ id }) {
    const close = h("button", { type: "button", class: "small", text: "Cancel" });
    close.addEventListener("click", () => this.close(id));
    return h(
      "li",
      { class: "job" },
      h("div", { class: "job-head" }, h("span", { class: "stage-name" }), h("span", { class: "muted count" }), close),
      h("progress", { max: 1, "aria-label": "Progress" }),
      h("p", { class: "job-text" }),
    );
  }

  async close(id) {
    const job = this.jobs.get(id);
    if (job.state === "failed") {
      this.jobs.delete(id);
      return this.render();
    }
    try {
      await api.cancelJob(id);
    } catch (error) {
      announce(error.message, { error: true });
    }
  }
}

function stageText(job) {
  const video = job.videos > 1 && job.video ? `, video ${job.video} of ${job.videos}` : "";
  return `${STAGES[job.state] ?? job.state}${video}`;
}

function updateJob(item, job) {
  const set = (selector, text) => (item.querySelector(selector).textContent = text);
  item.dataset.state = job.state;
  set(".stage-name", stageText(job));
  const steps = job.state === "sampling" && job.steps ? `step ${job.step} of ${job.steps}` : "";
  set(".count", job.state === "queued" && job.position ? `${job.position} before it` : steps);
  set(".job-text", job.error ?? job.settings?.prompt ?? "");
  set("button", job.state === "failed" ? "Dismiss" : "Cancel");
  const bar = item.querySelector("progress");
  bar.hidden = job.state === "failed";
  if (steps) bar.value = job.step / job.steps;
  else bar.removeAttribute("value");
}

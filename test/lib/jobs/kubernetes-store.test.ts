import assert from "node:assert/strict";
import { test } from "node:test";
import { JOB_UID_LABEL, type JobObject, type PodObject } from "../../../lib/jobs/kubernetes-objects.ts";
import { JobStore } from "../../../lib/jobs/kubernetes-store.ts";
import { jobObject, podObject } from "../../support/kubernetes-observations.ts";

function job(version: number, uid = "job-uid"): JobObject {
  const { metadata, ...rest } = jobObject();
  return { ...rest, metadata: { ...metadata, uid, resourceVersion: String(version) } };
}

function pod(version: number): PodObject {
  const { metadata, ...rest } = podObject({ sidecar: "running", microservices: {} });
  return {
    ...rest,
    metadata: { ...metadata, resourceVersion: String(version), labels: { [JOB_UID_LABEL]: "job-uid" } },
  };
}

function store(): JobStore {
  return new JobStore(() => undefined);
}

test("what comes late does not replace what is newer", () => {
  const known = store();
  const entry = known.takeJob(job(10));
  known.takeJob(job(9));
  assert.equal(entry?.seen.job.metadata.resourceVersion, "10");
  known.takePod(pod(12));
  known.takePod(pod(11));
  assert.equal(entry.seen.pod?.metadata.resourceVersion, "12");
});

test("a Job that is gone does not come back by a late answer", () => {
  const known = store();
  const entry = known.takeJob(job(10));
  known.takeJob(job(11), true);
  assert.equal(entry?.seen.isJobGone, true);
  assert.equal(known.takeJob(job(10)), undefined);
  assert.equal(known.get("run-1"), undefined);
});

test("whoever waits for a removed Job hears of its pod's end", () => {
  const known = store();
  const entry = known.takeJob(job(10));
  known.takePod(pod(11));
  known.takeJob(job(12), true);
  assert.equal(entry?.seen.isPodGone, false);
  known.takePod(pod(13), true);
  assert.equal(entry?.seen.isPodGone, true);
});

test("a pod that is heard of before its Job is found when that comes", () => {
  const known = store();
  known.takePod(pod(11));
  assert.equal(known.takeJob(job(10))?.seen.pod?.metadata.name, "run-1-abcde");
});

test("a new Job of an old name has nothing of the old one", () => {
  const known = store();
  const old = known.takeJob(job(10));
  known.takePod(pod(11));
  const fresh = known.takeJob(job(20, "another"));
  assert.equal(old?.seen.isJobGone, true);
  assert.equal(fresh?.seen.pod, undefined);
});

test("a list removes what is not in it, but not what became known since it was asked for", () => {
  const known = store();
  const askedAt = known.mark();
  const entry = known.takeJob(job(10));
  known.takeJobs([], askedAt);
  assert.equal(entry?.seen.isJobGone, false);
  known.takeJobs([], known.mark());
  assert.equal(entry?.seen.isJobGone, true);
});

test("a warning finds what it is about, whichever comes first", () => {
  const known = store();
  const event = { type: "Warning", reason: "FailedCreate", message: "no", involvedObject: { uid: "job-uid" } };
  known.takeEvent({ ...event, metadata: job(1).metadata });
  const entry = known.takeJob(job(10));
  assert.equal(entry?.seen.jobWarning?.message, "no");
  known.takeEvent({ ...event, message: "still no", metadata: job(1).metadata });
  assert.equal(entry?.seen.jobWarning?.message, "still no");
});

test("waiting for a change ends with the change, or with the signal's reason", async () => {
  const known = store();
  const entry = known.takeJob(job(10));
  assert.ok(entry);
  const changed = entry.changed(entry.version);
  known.takePod(pod(11));
  await changed;
  const abort = new AbortController();
  const waiting = entry.changed(entry.version, abort.signal);
  const reason = new Error("enough");
  abort.abort(reason);
  await assert.rejects(waiting, reason);
});

/**
 * What the operator sees of a chain's end: an Event on its Job. It names the container and what ended it, never what a
 * container wrote: that may hold data, and stays in the kept pod's log.
 */
import { randomUUID } from "node:crypto";
import { containerOf, failureOfCause, type Cause } from "./kubernetes-ending.ts";
import type { JobObject } from "./kubernetes-objects.ts";

const MAX_MESSAGE_CHARACTERS = 1_000;

/** The Event (core/v1) of a job that was ended. */
export function endingEvent(job: JobObject, namespace: string, cause: Cause, nowMs: number): unknown {
  const error = failureOfCause(cause, []);
  const container = containerOf(cause);
  // What never ran wrote nothing.
  const where =
    container === undefined || cause.kind === "startFailed"
      ? ""
      : ` See: kubectl logs -n ${namespace} job/${job.metadata.name} -c ${container}`;
  const time = new Date(nowMs).toISOString();
  const message = `${error?.message ?? "The chain's work is done."} (${error?.code ?? "succeeded"})`;
  return {
    apiVersion: "v1",
    kind: "Event",
    metadata: { name: `${job.metadata.name}.${randomUUID().slice(0, 8)}`, namespace },
    type: cause.kind === "succeeded" || cause.kind === "stopped" ? "Normal" : "Warning",
    reason: REASONS[cause.kind],
    message: `${message.slice(0, MAX_MESSAGE_CHARACTERS - where.length)}${where}`,
    involvedObject: {
      apiVersion: "batch/v1",
      kind: "Job",
      namespace,
      name: job.metadata.name,
      uid: job.metadata.uid,
    },
    source: { component: "dynamos-agent" },
    firstTimestamp: time,
    lastTimestamp: time,
    count: 1,
  };
}

const REASONS = {
  succeeded: "ChainDone",
  exited: "ChainFailed",
  memory: "ChainOutOfMemory",
  deadline: "ChainDeadlineExceeded",
  stopped: "ChainStopped",
  startFailed: "ChainNotStarted",
  lost: "ChainLost",
} as const satisfies Record<Cause["kind"], string>;

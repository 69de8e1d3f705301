/**
 * Why a job on Kubernetes ended. The first cause is written down on its Job, with the Job's version as a condition, so that
 * every runner of the steward tells the same end, whatever ending it brings about in the pod. Pure.
 */
import { constants } from "node:os";
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { AppError } from "../errors.ts";
import { deadlineExceeded, failureOfExit, memoryLimitExceeded, stoppedBefore } from "./job-ending.ts";

/**
 * The annotation of a Job that is ended, or was. Empty from the start, so that a patch can test that nobody was faster.
 */
export const ENDING_ANNOTATION = "dynamos.ending";

const Reason = { reason: Type.String(), message: Type.String(), retryable: Type.Boolean() };

/** The first cause that ended a job; no part of it may hold data. */
export const Cause = Type.Union([
  Type.Object({ kind: Type.Literal("succeeded") }),
  Type.Object({ kind: Type.Literal("exited"), container: Type.String(), exitCode: Type.Integer() }),
  Type.Object({ kind: Type.Literal("memory"), container: Type.String(), limitBytes: Type.Number() }),
  Type.Object({ kind: Type.Literal("deadline"), deadlineMs: Type.Number() }),
  Type.Object({ kind: Type.Literal("stopped") }),
  /** It never ran as a whole. */
  Type.Object({ kind: Type.Literal("startFailed"), container: Type.Optional(Type.String()), ...Reason }),
  /** It was taken away while it ran: node, eviction, somebody's delete. */
  Type.Object({ kind: Type.Literal("lost"), ...Reason }),
]);
export type Cause = Static<typeof Cause>;

const Ending = Type.Object({ cause: Cause, atMs: Type.Number() });
/** A cause, and when it was written down. */
export type Ending = Static<typeof Ending>;

/** The annotation that tells a cause. */
export function endingAnnotation(cause: Cause, atMs: number): Record<string, string> {
  return { [ENDING_ANNOTATION]: JSON.stringify({ cause, atMs } satisfies Ending) };
}

/** What the annotation says. One that somebody else spoilt counts as a loss. */
export function endingOf(annotations: Readonly<Record<string, string>> | undefined): Ending | undefined {
  const text = annotations?.[ENDING_ANNOTATION];
  if (text === undefined || text === "") return undefined;
  try {
    const value: unknown = JSON.parse(text);
    if (Value.Check(Ending, value)) return value;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  const message = `The annotation ${ENDING_ANNOTATION} of its Job cannot be read.`;
  return { cause: { kind: "lost", reason: "AnnotationSpoilt", message, retryable: true }, atMs: 0 };
}

/** The failure that a job ends with; undefined after success. `lines` are the last ones of the container in question. */
export function failureOfCause(cause: Cause, lines: readonly string[]): AppError | undefined {
  switch (cause.kind) {
    case "succeeded":
      return undefined;
    case "exited": {
      const signal = signalOf(cause.exitCode);
      const exit = { exitCode: cause.exitCode, ...(signal === undefined ? {} : { signal }) };
      return failureOfExit(cause.container, exit, lines);
    }
    case "memory":
      return memoryLimitExceeded(cause.container, cause.limitBytes);
    case "deadline":
      return deadlineExceeded(cause.deadlineMs);
    case "stopped":
      return stoppedBefore();
    case "startFailed": {
      const { container, reason, message, retryable } = cause;
      const details = { ...(container === undefined ? {} : { container }), reason };
      return new AppError("job_start_failed", message, { retryable, details });
    }
    case "lost":
      return new AppError("job_failed", cause.message, {
        retryable: cause.retryable,
        details: { reason: cause.reason },
      });
    default:
      return cause satisfies never;
  }
}

/** The container whose log says more about a cause. */
export function containerOf(cause: Cause): string | undefined {
  return "container" in cause ? cause.container : undefined;
}

/** The signal behind an exit code above 128, as shells and container runtimes put it. */
function signalOf(exitCode: number): string | undefined {
  return Object.entries(constants.signals).find(([, number]) => number + 128 === exitCode)?.[0];
}

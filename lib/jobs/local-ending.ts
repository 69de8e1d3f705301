/** Why a local job ended. Pure. */
import type { AppError } from "../errors.ts";
import {
  deadlineExceeded,
  failureOfExit,
  memoryLimitExceeded,
  stoppedBefore,
  type ContainerExit,
} from "./job-ending.ts";
import type { JobSpec } from "./job-runner.ts";

/** The first cause that ended a job. */
export type Ending =
  | { readonly kind: "succeeded" }
  | { readonly kind: "exited"; readonly container: string; readonly exit: ContainerExit }
  | { readonly kind: "memory"; readonly container: string; readonly limitBytes: number; readonly residentBytes: number }
  | { readonly kind: "deadline" }
  | { readonly kind: "stopped" }
  | { readonly kind: "startFailed"; readonly error: AppError };

/**
 * What a container's exit means for its job: the sidecar ends last, and its exit code decides; a microservice may end
 * early if its work is done. Undefined: the job goes on.
 */
export function endingOfExit(spec: JobSpec, container: string, exit: ContainerExit): Ending | undefined {
  if (exit.exitCode !== 0) return { kind: "exited", container, exit };
  return container === spec.sidecar.name ? { kind: "succeeded" } : undefined;
}

/** The failure that a job ends with; undefined after success. `lastLines` are those of the container in question. */
export function failureOf(ending: Ending, spec: JobSpec, lastLines: readonly string[]): AppError | undefined {
  switch (ending.kind) {
    case "succeeded":
      return undefined;
    case "exited":
      return failureOfExit(ending.container, ending.exit, lastLines);
    case "memory":
      return memoryLimitExceeded(ending.container, ending.limitBytes, ending.residentBytes);
    case "deadline":
      return deadlineExceeded(spec.deadlineMs);
    case "stopped":
      return stoppedBefore();
    case "startFailed":
      return ending.error;
    default:
      return ending satisfies never;
  }
}

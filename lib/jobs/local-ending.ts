/** Why a local job ended, and what is told of it. Pure. */
import { AppError } from "../errors.ts";
import { LAUNCHER_NAME, type ContainerExit } from "./local-container.ts";
import type { JobSpec } from "./job-runner.ts";

/** The first cause that ended a job. */
export type Ending =
  | { readonly kind: "succeeded" }
  | { readonly kind: "exited"; readonly container: string; readonly exit: ContainerExit }
  | { readonly kind: "memory"; readonly container: string; readonly limitBytes: number; readonly residentBytes: number }
  | { readonly kind: "deadline" }
  | { readonly kind: "stopped" }
  | { readonly kind: "startFailed"; readonly error: AppError };

/** Most lines of a container's log that a failure carries, and characters of each. */
export const FAILURE_LOG_LINES = 20;
const FAILURE_LINE_CHARACTERS = 300;

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
      return failureOfExit(ending.container, ending.exit, lastLines.map(shorten).slice(-FAILURE_LOG_LINES));
    case "memory":
      return memoryLimitExceeded(ending);
    case "deadline":
      return new AppError(
        "deadline_exceeded",
        `The chain was not done at its deadline, ${new Date(spec.deadlineMs).toISOString()}, and was killed.`,
        { details: { deadlineMs: spec.deadlineMs } },
      );
    case "stopped":
      return new AppError("cancelled", "The chain was stopped before its work was done.");
    case "startFailed":
      return ending.error;
    default:
      return ending satisfies never;
  }
}

function failureOfExit(container: string, exit: ContainerExit, log: readonly string[]): AppError {
  const details = { container, ...exit, log };
  const how = exit.signal === undefined ? `exit code ${String(exit.exitCode)}` : `signal ${exit.signal}`;
  if (log.some(saysPortTaken)) {
    return new AppError("job_start_failed", `Container ${container} found its port taken (${how}).`, { details });
  }
  if ((exit.exitCode === 126 || exit.exitCode === 127) && log.some((line) => line.startsWith(`${LAUNCHER_NAME}:`))) {
    const message = `Container ${container}: its program cannot be run (${how}).`;
    return new AppError("job_start_failed", message, { retryable: false, details });
  }
  return new AppError("job_failed", `Container ${container} ended with ${how} before the chain's work was done.`, {
    details,
  });
}

/** As Node and grpc-js, Go, Python and Rust put it. */
function saysPortTaken(line: string): boolean {
  return /EADDRINUSE|address already in use/i.test(line);
}

function memoryLimitExceeded(ending: Extract<Ending, { kind: "memory" }>): AppError {
  const { container, limitBytes, residentBytes } = ending;
  return new AppError(
    "memory_limit_exceeded",
    `Container ${container} held ${inMiB(residentBytes)} MiB, above its limit of ${inMiB(limitBytes)} MiB, and was ` +
      `killed. Ask for less, or raise resources.memoryLimitMiB of the microservice ${container}.`,
    { details: { container, limitBytes, residentBytes, setting: "resources.memoryLimitMiB" } },
  );
}

function inMiB(bytes: number): string {
  return (bytes / 1024 ** 2).toFixed(0);
}

function shorten(line: string): string {
  return line.length <= FAILURE_LINE_CHARACTERS ? line : `${line.slice(0, FAILURE_LINE_CHARACTERS - 1)}…`;
}

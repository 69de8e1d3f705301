/** How jobs' ends are told, the same by every runner. Pure. */
import { AppError } from "../errors.ts";
import type { JobPhase } from "./job-runner.ts";

/** How a container ended: with a code, by a signal, or, where only the code tells of the signal, both. */
export interface ContainerExit {
  readonly exitCode?: number;
  readonly signal?: string;
}

/** What the shell in front of a program calls itself in its own error messages: a program that cannot be run shows by it. */
export const LAUNCHER_NAME = "dynamos-launch";

/** Most lines of a container's log that a failure carries, and characters of each. */
export const FAILURE_LOG_LINES = 20;
const FAILURE_LINE_CHARACTERS = 300;

/** Whether a phase is a last one. */
export function hasEnded(phase: JobPhase): boolean {
  return phase === "succeeded" || phase === "failed";
}

/** The failure of a job one of whose containers ended before its work was done; `lines` are its last ones. */
export function failureOfExit(container: string, exit: ContainerExit, lines: readonly string[]): AppError {
  const log = lines.map(shorten).slice(-FAILURE_LOG_LINES);
  const details = { container, ...exit, log };
  const how = describe(exit);
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

/** The failure of a job that was not done in time. */
export function deadlineExceeded(deadlineMs: number): AppError {
  return new AppError(
    "deadline_exceeded",
    `The chain was not done at its deadline, ${new Date(deadlineMs).toISOString()}, and was killed.`,
    { details: { deadlineMs } },
  );
}

/** The failure of a job that somebody ended. */
export function stoppedBefore(): AppError {
  return new AppError("cancelled", "The chain was stopped before its work was done.");
}

/** The failure of a job one of whose containers outgrew its limit. `residentBytes` is absent where only the kernel knew. */
export function memoryLimitExceeded(container: string, limitBytes: number, residentBytes?: number): AppError {
  const held = residentBytes === undefined ? "" : `held ${inMiB(residentBytes)} MiB, above its limit of `;
  const went = residentBytes === undefined ? "went above its limit of " : "";
  return new AppError(
    "memory_limit_exceeded",
    `Container ${container} ${held}${went}${inMiB(limitBytes)} MiB, and was ` +
      `killed. Ask for less, or raise resources.memoryLimitMiB of the microservice ${container}.`,
    {
      details: {
        container,
        limitBytes,
        ...(residentBytes === undefined ? {} : { residentBytes }),
        setting: "resources.memoryLimitMiB",
      },
    },
  );
}

function describe({ exitCode, signal }: ContainerExit): string {
  if (signal === undefined) return `exit code ${String(exitCode)}`;
  return exitCode === undefined ? `signal ${signal}` : `exit code ${String(exitCode)} (${signal})`;
}

/** As Node and grpc-js, Go, Python and Rust put it. */
function saysPortTaken(line: string): boolean {
  return /EADDRINUSE|address already in use/i.test(line);
}

function inMiB(bytes: number): string {
  return (bytes / 1024 ** 2).toFixed(0);
}

function shorten(line: string): string {
  return line.length <= FAILURE_LINE_CHARACTERS ? line : `${line.slice(0, FAILURE_LINE_CHARACTERS - 1)}…`;
}

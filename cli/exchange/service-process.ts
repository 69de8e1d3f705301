/** One program of the exchange as a child process: started, watched until it is ready, its log kept, ended. */
import { spawn, type ChildProcess } from "node:child_process";
import { createWriteStream, existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { AppError } from "../../lib/errors.ts";
import { baseEnvironment } from "../../lib/config/env.ts";

/** What to start. */
export interface ServiceSpec {
  /** For messages and the log's name: `orchestrator`, `agent-VU`. */
  readonly name: string;
  /** Path of the program below the package's built root, without extension: `agent/main`. */
  readonly program: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly logFile: string;
  /** How long it may take to become ready. */
  readonly readyMs: number;
}

/** A service that is ready. */
export interface RunningService {
  readonly name: string;
  readonly pid: number;
  /** Base URL of its HTTP API. */
  readonly url: string;
  /** Resolves when the process has ended, for whatever reason. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  hasEnded(): boolean;
  /** SIGTERM, and SIGKILL after the limit; resolves when it has ended. */
  stop(limitMs?: number): Promise<void>;
  /** `kill -9`, or any other signal, without waiting: for tests of failures. */
  kill(signal: NodeJS.Signals): void;
}

/** A service tells that it is ready by a log line with this shape. */
interface ReadyLine {
  readonly url: string;
}

const LAST_LINES = 15;
/**
 * An agent that loads files makes so many new objects that V8 would let the space for them grow to 48 MiB, a little with each file; in half of
 * it they are collected just as well. The bundle is compiled under the same flags (`cli/bundle-programs.mjs`); `charts/agent` has them, too.
 */
const AGENT_FLAGS: readonly string[] = ["--max-semi-space-size=8"];

/**
 * Starts a service and resolves when it is ready.
 *
 * @throws AppError `unavailable` with its last log lines when it ends, or is not ready in time.
 */
export async function startService(spec: ServiceSpec): Promise<RunningService> {
  const child = spawn(process.execPath, programCommand(spec.program), {
    env: { ...baseEnvironment(), ...spec.environment, DYNAMOS_EXIT_WITH_PARENT: "true" },
    // Standard input stays open as long as this process lives: the child ends with it.
    stdio: ["pipe", "pipe", "pipe"],
  });
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once("exit", (code, signal) => resolve({ code, signal }));
    child.once("error", () => resolve({ code: null, signal: null }));
  });
  const log = createWriteStream(spec.logFile, { flags: "a" });
  child.stderr?.pipe(log, { end: false });
  const lastLines: string[] = [];
  try {
    const url = await readyUrl(child, spec, exited, lastLines, log);
    return toRunningService(child, spec.name, url, exited);
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

function toRunningService(
  child: ChildProcess,
  name: string,
  url: string,
  exited: RunningService["exited"],
): RunningService {
  return {
    name,
    pid: child.pid ?? 0,
    url,
    exited,
    hasEnded: () => child.exitCode !== null || child.signalCode !== null,
    kill: (signal) => void child.kill(signal),
    stop: async (limitMs = 15_000) => {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
      await exited;
      clearTimeout(timer);
    },
  };
}

function readyUrl(
  child: ChildProcess,
  spec: ServiceSpec,
  exited: RunningService["exited"],
  lastLines: string[],
  log: NodeJS.WritableStream,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let fault: AppError | undefined;
    const fail = (what: string): void => {
      const tail = lastLines.length === 0 ? "" : ` Its last lines:\n${lastLines.join("\n")}`;
      reject(new AppError("unavailable", `${spec.name} ${what}. Its log is ${spec.logFile}.${tail}`));
    };
    const timer = setTimeout(() => fail(`was not ready after ${String(spec.readyMs)} ms`), spec.readyMs);
    void exited.then(({ code, signal }) => {
      clearTimeout(timer);
      if (fault !== undefined) reject(fault);
      else fail(`ended with ${signal ?? `code ${String(code)}`} before it was ready`);
    });
    if (child.stdout === null) return fail("has no output");
    createInterface({ input: child.stdout }).on("line", (line) => {
      log.write(`${line}\n`);
      fault ??= configurationFault(line);
      lastLines.push(line.slice(0, 1000));
      if (lastLines.length > LAST_LINES) lastLines.shift();
      const ready = parseReadyLine(line);
      if (ready === undefined) return;
      clearTimeout(timer);
      resolve(ready.url);
    });
  });
}

function parseReadyLine(line: string): ReadyLine | undefined {
  if (!line.includes("is ready")) return undefined;
  const parsed = parseLogLine(line);
  return "msg" in parsed && typeof parsed["url"] === "string" ? { url: parsed["url"] } : undefined;
}

/** A fault of the configuration is the reader's to mend, so it is shown as the program said it. */
function configurationFault(line: string): AppError | undefined {
  if (!line.includes('"fatal"')) return undefined;
  const error = parseLogLine(line)["error"] as { readonly code?: string; readonly message?: string } | undefined;
  if (error?.code !== "configuration_invalid" && error?.code !== "chain_invalid") return undefined;
  return new AppError(error.code, error.message ?? "");
}

/** The members of a log line; none where it is no JSON object: not every line that a program writes is ours. */
function parseLogLine(line: string): Readonly<Record<string, unknown>> {
  try {
    const parsed: unknown = JSON.parse(line);
    return typeof parsed === "object" && parsed !== null ? (parsed as Record<string, unknown>) : {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

/** V8's flags for a program. */
export function serviceFlags(program: string): readonly string[] {
  return program === "agent/main" ? AGENT_FLAGS : [];
}

/** The bundle where there is one, since it starts faster; what the compiler made has maps to the sources. */
function programCommand(program: string): readonly string[] {
  const [bundle = "", compiled = ""] = [`../../bundle/${program}.js`, `../../${program}.js`].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  return [...serviceFlags(program), ...(existsSync(bundle) ? [bundle] : ["--enable-source-maps", compiled])];
}

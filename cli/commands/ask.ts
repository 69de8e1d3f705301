/**
 * `dynamos ask`: one request to the front door of an exchange, from a file; without a file, who can be asked. It is what
 * `helm test` runs in a cluster.
 */
import { readFile } from "node:fs/promises";
import { systemClock, type Clock } from "../../lib/clock.ts";
import { parseJsonFile } from "../../lib/config/json-file.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { RequestApproval } from "../../lib/model/data-request.ts";
import { call, ExchangeClient, type GatheredAnswer } from "../client.ts";
import { tableText } from "../demo/table-text.ts";

/** Options of the command. */
export interface AskOptions {
  /** JSON file with the body of a request for approval that carries its question; absent: only who can be asked. */
  readonly file: string | undefined;
  /** Base URL of the front door. */
  readonly orchestrator: string;
  /** Base URLs that have to be ready besides, such as an agent's. */
  readonly ready: readonly string[];
  /** What is not ready, or not answered in full, is asked again until so many milliseconds are over; 0: asked once. */
  readonly waitMs: number;
  readonly write: (line: string) => void;
  readonly clock?: Clock;
}

/** Between two attempts: parts of an exchange come up within seconds. */
const PAUSE_MS = 2_000;
/** One attempt may take no longer: chains start, and read their data for the first time. */
const ATTEMPT_LIMIT_MS = 120_000;

/**
 * Runs the command; the exit code is 0 for an answer of everybody who was asked, else 1.
 *
 * @throws AppError `not_found` or `configuration_invalid` for a file that holds no request, or why the last attempt failed.
 */
export async function ask(options: AskOptions): Promise<number> {
  const { file, orchestrator, ready, waitMs, write, clock = systemClock } = options;
  const request = file === undefined ? undefined : await readRequest(file);
  const client = new ExchangeClient(orchestrator);
  const untilMs = clock.now() + waitMs;
  for (;;) {
    const last = clock.now() + PAUSE_MS >= untilMs;
    try {
      for (const url of [...ready, orchestrator]) write(await requireReady(url));
      if (request === undefined) {
        write(
          `can be asked: ${
            Object.keys(await availableProviders(client))
              .sort()
              .join(", ") || "nobody"
          }`,
        );
        return 0;
      }
      const answer = await client.ask(request, { signal: AbortSignal.timeout(ATTEMPT_LIMIT_MS) });
      if (isWhole(answer) || last) return writeAnswer(answer, write);
      write(`not all have answered (${missing(answer)}); asking again`);
    } catch (error) {
      const known = toAppError(error);
      // A request that is wrong does not become right.
      if (last || known.status === 400) throw known;
      write(`${known.message} Trying again.`);
    }
    await clock.sleep(PAUSE_MS);
  }
}

async function readRequest(file: string): Promise<RequestApproval> {
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new AppError("not_found", `The request "${file}" cannot be read.`, { cause, place: { file } });
  });
  const value = parseJsonFile(text, file);
  // What else may be wrong with it the orchestrator says, with its pointer.
  if (typeof value === "object" && value !== null && "data_request" in value) return value as RequestApproval;
  throw new AppError(
    "configuration_invalid",
    'The request has no "data_request": its question (docs/architecture.md).',
    {
      place: { file },
    },
  );
}

async function requireReady(url: string): Promise<string> {
  const base = url.replace(/\/+$/, "");
  const response = await call("GET", `${base}/ready`, undefined, { signal: AbortSignal.timeout(10_000) }).catch(
    (cause: unknown) => {
      throw new AppError("unavailable", `Nothing answers at ${base}/ready.`, { cause });
    },
  );
  const text = await response.text();
  if (response.ok) return `ready: ${base}`;
  throw new AppError("unavailable", `${base} is not ready (${String(response.status)}): ${text.slice(0, 1_000)}`);
}

async function availableProviders(client: ExchangeClient): Promise<Record<string, unknown>> {
  const signal = AbortSignal.timeout(10_000);
  return (await client.get("getAvailableProviders", { signal })) as Record<string, unknown>;
}

function isWhole(answer: GatheredAnswer): boolean {
  return answer.offline.length === 0 && answer.refused.length === 0 && answer.responses.every(isAnswered);
}

function isAnswered({ status }: GatheredAnswer["responses"][number]): boolean {
  return status === "ok";
}

function missing({ offline, refused, responses }: GatheredAnswer): string {
  return [
    ...offline.map((provider) => `${provider}: offline`),
    ...refused.map(({ provider, code }) => `${provider}: ${code}`),
    ...responses
      .filter((response) => !isAnswered(response))
      .map(({ provider, problem, status }) => `${provider}: ${problem?.code ?? status}`),
  ].join(", ");
}

function writeAnswer(answer: GatheredAnswer, write: (line: string) => void): number {
  write(`archetype: ${answer.archetype}`);
  for (const { provider, rows } of answer.responses.filter(isAnswered))
    write(`\n${provider}:\n${tableText(rows ?? [])}`);
  if (answer.pooled !== undefined) write(`\ntogether:\n${tableText(answer.pooled.rows ?? [])}`);
  if (isWhole(answer)) return 0;
  write(`\nnot answered: ${missing(answer)}`);
  return 1;
}

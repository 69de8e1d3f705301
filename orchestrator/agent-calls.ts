/**
 * A party's part of a data request, asked of its agent over HTTP and answered as a stream. A party may have several instances:
 * the request goes to the one that `agent-instances.ts` names, and, while nothing of the answer was handed on, to the next
 * under the same id where that one cannot be reached, is stopping, dies, or vanishes.
 */
import type { IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import { AppError, ERROR_KINDS, isErrorCode, toAppError, type ErrorCode } from "../lib/errors.ts";
import { ACCEPTED_ENCODINGS, decodedBody } from "../lib/http/content-encoding.ts";
import { callService, isUnreachable } from "../lib/http/outgoing.ts";
import type { OnlineRecord } from "../lib/messages.ts";
import type { DataRequest } from "../lib/model/data-request.ts";
import { ANSWER_FRAMES_MEDIA_TYPE } from "../lib/rpc/answer-frames.ts";
import { traceHeaders, type TraceContext } from "../lib/telemetry/trace-context.ts";
import { inOrderOfChoice } from "./agent-instances.ts";
import type { OrchestratorContext } from "./context.ts";
import { dataRequestPath } from "./endpoints.ts";

/** What is asked of an agent. */
export interface AgentQuestion {
  readonly party: string;
  readonly request: DataRequest;
  readonly requestId: string;
  readonly accessToken: string;
  readonly trace: TraceContext;
  /** Ends the call. */
  readonly signal: AbortSignal;
  /** Whether the answer may come as frames (`lib/rpc/answer-frames.ts`); an agent that does not know them sends JSON. */
  readonly mayBeFrames: boolean;
}

/** An agent's answer, its status known to be good, its body unread. */
export interface OpenAnswer {
  /** What the body is. */
  readonly format: "json" | "frames";
  /**
   * The body, to be iterated once. Fails with `stream_interrupted` when it breaks off, or when the instance is gone and nothing
   * more comes, or with the signal's reason.
   */
  readonly body: AsyncIterable<Buffer>;
  /** Ends the call. */
  destroy(): void;
  /**
   * The same request at another instance, under the same id, after this answer broke off and before anything of it was handed
   * on. Fails with `cause` where no other lives, or enough were asked.
   */
  askAgain(cause: AppError): Promise<OpenAnswer>;
}

/** Problem documents of agents are small; more is not read. */
const MAX_PROBLEM_BYTES = 256 * 1024;
/** Calls for one party's part of one request. */
const MAX_CALLS = 4;
/** When the instance's record is gone, an answer that was coming may pause so long. */
const SILENCE_MS = 5_000;
/**
 * The agent's answer. Fails with the agent's own problem, with `agent_offline` where no instance can be reached or all that
 * were asked have gone, or with the signal's reason.
 */
export function askAgent(question: AgentQuestion, context: OrchestratorContext): Promise<OpenAnswer> {
  return new PartyCall(question, context).ask();
}

/** One party's part of a request: which instances were asked, and why in vain. */
class PartyCall {
  readonly #question: AgentQuestion;
  readonly #context: OrchestratorContext;
  readonly #asked = new Set<string>();

  constructor(question: AgentQuestion, context: OrchestratorContext) {
    this.#question = question;
    this.#context = context;
  }

  async ask(failure?: AppError): Promise<OpenAnswer> {
    const { party, signal } = this.#question;
    let last = failure;
    while (this.#asked.size < MAX_CALLS) {
      const record = await this.#nextInstance();
      if (record === undefined) break;
      if (this.#asked.size > 0) this.#noteRetry(last);
      this.#asked.add(record.instance);
      try {
        return await this.#askInstance(record);
      } catch (thrown) {
        if (signal.aborted) throw toAppError(signal.reason);
        last = this.#passing(thrown);
      }
    }
    throw last ?? new AppError("agent_offline", `No agent of ${party} is online.`, { party });
  }

  async #nextInstance(): Promise<OnlineRecord | undefined> {
    const { party, requestId } = this.#question;
    const online = await this.#context.knowledge.onlineInstances(party);
    return inOrderOfChoice(requestId, online).find(({ instance }) => !this.#asked.has(instance));
  }

  async #askInstance(record: OnlineRecord): Promise<OpenAnswer> {
    const { party, request, requestId, accessToken, trace, signal, mayBeFrames } = this.#question;
    const gone = new AbortController();
    // Ends the call as long as nothing of an answer is there; later, what comes yet is listened to.
    const waiting = new AbortController();
    let isWaiting = true;
    const forget = this.#context.agents.watch(record, () => {
      gone.abort(vanished(party));
      if (isWaiting) waiting.abort();
    });
    signal.addEventListener("abort", forget, { once: true });
    const url = new URL(dataRequestPath(request.type, party), `${record.instanceUrl.replace(/\/+$/, "")}/`);
    try {
      const response = await callService(url, {
        method: "POST",
        headers: {
          accept: mayBeFrames ? `${ANSWER_FRAMES_MEDIA_TYPE}, application/json;q=0.5` : "application/json",
          "accept-encoding": ACCEPTED_ENCODINGS,
          authorization: `Bearer ${accessToken}`,
          "idempotency-key": requestId,
          ...traceHeaders(trace),
        },
        body: request,
        signal: AbortSignal.any([signal, waiting.signal]),
        trust: this.#context.trust,
      });
      isWaiting = false;
      if (response.statusCode !== 200) throw await problemOf(response, party);
      return {
        format: response.headers["content-type"] === ANSWER_FRAMES_MEDIA_TYPE ? "frames" : "json",
        body: chunksOf(decodedBody(response), party, gone.signal, forget),
        destroy: () => {
          forget();
          response.destroy();
        },
        askAgain: (cause) => this.ask(cause),
      };
    } catch (thrown) {
      forget();
      throw waiting.signal.aborted ? gone.signal.reason : thrown;
    }
  }

  /** The failure, where another instance may do better; anything else is thrown. */
  #passing(thrown: unknown): AppError {
    const { party } = this.#question;
    if (isUnreachable(thrown)) {
      return new AppError("agent_offline", `The agent of ${party} cannot be reached.`, { party, cause: thrown });
    }
    const error = toAppError(thrown).withParty(party);
    // It is stopping, or lacks what it works with: its own state, and not the question's.
    if (error instanceof Vanished || (error.code === "unavailable" && error.party === party)) return error;
    throw error;
  }

  #noteRetry(why: AppError | undefined): void {
    const { party, requestId } = this.#question;
    const { logger, metrics } = this.#context;
    metrics.agentRetries.add(1, { party });
    logger.warn({ error: why, party, dataRequest: requestId }, "another instance of an agent is asked");
  }
}

/** The instance's record ended while it was waited for. */
class Vanished extends AppError {
  override withParty(): this {
    return this;
  }
}

function vanished(party: string): Vanished {
  return new Vanished("agent_offline", `The agent of ${party} went offline while its answer was waited for.`, {
    party,
  });
}

/** The body's chunks as they are asked for. One that is gone by its record, but goes on to send, is listened to. */
async function* chunksOf(
  response: Readable,
  party: string,
  gone: AbortSignal,
  forget: () => void,
): AsyncGenerator<Buffer, void, undefined> {
  const chunks = response[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>;
  try {
    for (;;) {
      const next = await beforeSilence(chunks.next(), gone);
      if (next.done === true) return;
      yield next.value;
    }
  } catch (thrown) {
    throw brokenOff(party, thrown);
  } finally {
    forget();
    response.destroy();
  }
}

/** The next chunk; once the instance is gone only for a while longer. */
function beforeSilence<Value>(next: Promise<Value>, gone: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined;
    const limit = (): void => {
      timer = setTimeout(() => reject(gone.reason as Error), SILENCE_MS);
    };
    const stop = (): void => {
      clearTimeout(timer);
      gone.removeEventListener("abort", limit);
    };
    if (gone.aborted) limit();
    else gone.addEventListener("abort", limit, { once: true });
    next.then(resolve, reject).finally(stop).catch(reject);
  });
}

/** What ends a body early, as what it means to whoever reads it: all but the signal is the network's, or the other side's. */
function brokenOff(party: string, thrown: unknown): AppError {
  const error = toAppError(thrown);
  if (error.code !== "internal" && !(error instanceof Vanished)) return error.withParty(party);
  return new AppError("stream_interrupted", `The answer of ${party} broke off.`, { party, cause: thrown });
}

/** The error that a problem document stands for (RFC 9457); what is none is `job_failed`, with the status. */
async function problemOf(response: IncomingMessage, party: string): Promise<AppError> {
  const text = (await readAtMost(decodedBody(response), MAX_PROBLEM_BYTES))?.toString("utf8") ?? "";
  const problem = parseProblem(text);
  if (problem === undefined) {
    return new AppError("job_failed", `The agent of ${party} answered with status ${String(response.statusCode)}.`, {
      party,
    });
  }
  return errorOfProblem(problem).withParty(party);
}

/** An agent's problem document as the error that it was. */
export function errorOfProblem(problem: Readonly<Record<string, unknown>>): AppError {
  const {
    code,
    detail,
    party,
    retryable,
    type: _type,
    title: _title,
    status: _status,
    requestId: _id,
    ...details
  } = problem;
  const known: ErrorCode = typeof code === "string" && isErrorCode(code) ? code : "internal";
  return new AppError(known, typeof detail === "string" ? detail : ERROR_KINDS[known].title, {
    details,
    ...(typeof party === "string" ? { party } : {}),
    ...(typeof retryable === "boolean" ? { retryable } : {}),
  });
}

/** A body of at most so many bytes; undefined (and the rest unread) when it is larger. */
export async function readAtMost(body: AsyncIterable<Buffer>, maxBytes: number): Promise<Buffer | undefined> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of body) {
    bytes += piece.length;
    if (bytes > maxBytes) return undefined;
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function parseProblem(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && "code" in value ? { ...value } : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

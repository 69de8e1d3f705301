/** Sends a stream of frames to the next program in a chain, compressed and joined as far as that one understands it. */
import type { MessageShape } from "@bufbuild/protobuf";
import type { Metadata } from "@grpc/grpc-js";
import { toAppError } from "../errors.ts";
import type { CallOptions, RpcClient, StreamingMethod } from "./client.ts";
import { ACCEPT_COMPRESSION, DEFLATE_RAW, PAYING_RATIO } from "./chunk-compression.ts";
import { ACCEPT_FRAMES, FOLLOWING, FrameGroups, joined, WHOLE } from "./frame-groups.ts";
import { FrameRecoder } from "./frame-recoding.ts";
import type { StreamReceiptSchema } from "./gen/dynamos/v1/microservice_pb.ts";
import type { Frame, FrameSchema } from "./gen/dynamos/v1/stream_pb.ts";
import { isWhole, SharedStreams } from "./whole-streams.ts";

/**
 * How long the first chunk may wait to hear what the receiver understands. Ours say it as soon as a call begins, before they look
 * at its first frame; others may say nothing until they answer.
 */
const ACCEPTANCE_WAIT_MS = 50;

/** How frames are sent. */
export interface SendOptions extends CallOptions {
  /** Instead of 50 ms. */
  readonly acceptanceWaitMs?: number;
}

/**
 * Sends frames, and resolves with the answer. A receiver whose initial metadata names the compression gets chunks compressed
 * where that pays; any other gets them as they are, also those that came compressed. One that is known to take them so from a call
 * before gets a small result in one message (`frame-groups.ts`).
 *
 * @throws AppError as `RpcClient.stream` does; `data_invalid` for a compressed chunk that cannot be read, where it must be.
 */
export async function sendFrames(
  client: RpcClient,
  method: StreamingMethod<typeof FrameSchema, typeof StreamReceiptSchema>,
  frames: AsyncIterable<Frame>,
  { acceptanceWaitMs = ACCEPTANCE_WAIT_MS, ...options }: SendOptions = {},
): Promise<MessageShape<typeof StreamReceiptSchema>> {
  const acceptance = new Acceptance(acceptanceWaitMs, ACCEPTED.get(client));
  const messages = new SentFrames(frames, acceptance);
  const first = acceptance.takesWhole ? await messages.first(options.signal) : undefined;
  if (first?.isWhole === true) return sharedStreamsOf(client).send(first.message, options);
  return client.stream(method, messages, {
    ...options,
    onMetadata: (metadata) => ACCEPTED.set(client, acceptance.told(metadata)),
  });
}

/** The calls that runs share, as long as their clients live. */
const SHARED = new WeakMap<RpcClient, SharedStreams>();

function sharedStreamsOf(client: RpcClient): SharedStreams {
  const shared = SHARED.get(client) ?? new SharedStreams(client);
  SHARED.set(client, shared);
  return shared;
}

/** What a receiver understands. */
interface Accepted {
  readonly compressed: boolean;
  readonly following: boolean;
  readonly whole: boolean;
}

/** What the program behind a client said at its last call: in a chain of many runs nobody waits to hear it again. */
const ACCEPTED = new WeakMap<RpcClient, Accepted>();

/** What is known of the receiver. */
class Acceptance {
  readonly #waitMs: number;
  #accepted: Accepted | undefined;
  #tell = (): void => undefined;

  /** @param known what it said before, if it did. */
  constructor(waitMs: number, known: Accepted | undefined) {
    this.#waitMs = waitMs;
    this.#accepted = known;
  }

  /** What it says by its metadata. */
  told(metadata: Metadata): Accepted {
    const forms = namesIn(metadata, ACCEPT_FRAMES);
    const accepted = {
      compressed: namesIn(metadata, ACCEPT_COMPRESSION).includes(DEFLATE_RAW),
      following: forms.includes(FOLLOWING),
      whole: forms.includes(WHOLE),
    };
    this.#accepted = accepted;
    this.#tell();
    return accepted;
  }

  /** Whether it is known to take frames that follow a Start in the same message. Nobody waits to hear it. */
  get takesFollowing(): boolean {
    return this.#accepted?.following ?? false;
  }

  /** Whether it is known to take whole streams by a call that they share. */
  get takesWhole(): boolean {
    return this.takesFollowing && (this.#accepted?.whole ?? false);
  }

  /** Whether it takes compressed chunks; waits a little, once, for it to say so. */
  async takesCompressed(): Promise<boolean> {
    if (this.#accepted !== undefined) return this.#accepted.compressed;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#waitMs);
      this.#tell = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    // What it says later still counts.
    this.#accepted ??= { compressed: false, following: false, whole: false };
    return this.#accepted.compressed;
  }
}

function namesIn(metadata: Metadata, header: string): readonly string[] {
  return metadata.get(header).flatMap((list) =>
    String(list)
      .split(",")
      .map((name) => name.trim()),
  );
}

/** The messages of one stream; for one reader. Not a generator: leaving one that has not begun would not leave its source. */
class SentFrames implements AsyncIterable<Frame> {
  readonly #groups: AsyncIterator<readonly Frame[]>;
  readonly #acceptance: Acceptance;
  readonly #recoder = new FrameRecoder(PAYING_RATIO.hop);
  #first: Frame | undefined;

  constructor(frames: AsyncIterable<Frame>, acceptance: Acceptance) {
    this.#groups = new FrameGroups(frames, () => acceptance.takesFollowing)[Symbol.asyncIterator]();
    this.#acceptance = acceptance;
  }

  /**
   * The first message, before a call is made; it comes again in the iteration, unless it is all there is. Undefined where the source
   * has none. Throws what the source throws, and the signal's reason.
   */
  async first(signal?: AbortSignal): Promise<{ readonly message: Frame; readonly isWhole: boolean } | undefined> {
    try {
      const group = await unlessAborted(this.#groups.next(), signal);
      if (group.done === true) return undefined;
      const message = await this.#message(group.value);
      const isAll = isWhole(group.value);
      if (isAll) await this.#groups.return?.();
      else this.#first = message;
      return { message, isWhole: isAll };
    } catch (error) {
      // Not awaited: what waits for something ends when that comes.
      void this.#groups.return?.().catch(() => undefined);
      throw toAppError(error);
    }
  }

  [Symbol.asyncIterator](): AsyncIterator<Frame> {
    return {
      next: async () => {
        const first = this.#first;
        this.#first = undefined;
        if (first !== undefined) return { done: false, value: first };
        const next = await this.#groups.next();
        return next.done === true
          ? { done: true, value: undefined }
          : { done: false, value: await this.#message(next.value) };
      },
      return: async () => {
        await this.#groups.return?.();
        return { done: true, value: undefined };
      },
    };
  }

  async #message(group: readonly Frame[]): Promise<Frame> {
    const recoded: Frame[] = [];
    for (const frame of group) {
      const mayCompress = frame.body.case === "chunk" && (await this.#acceptance.takesCompressed());
      recoded.push(this.#recoder.recode(frame, mayCompress));
    }
    return joined(recoded);
  }
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(toAppError(signal.reason));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** Sends a stream of frames to the next program in a chain, compressed as far as that one understands it. */
import type { MessageShape } from "@bufbuild/protobuf";
import type { CallOptions, RpcClient, StreamingMethod } from "./client.ts";
import { ACCEPT_COMPRESSION, DEFLATE_RAW, PAYING_RATIO } from "./chunk-compression.ts";
import { FrameRecoder } from "./frame-recoding.ts";
import type { StreamReceiptSchema } from "./gen/dynamos/v1/microservice_pb.ts";
import type { Frame, FrameSchema } from "./gen/dynamos/v1/stream_pb.ts";

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
 * where that pays; any other gets them as they are, also those that came compressed.
 *
 * @throws AppError as `RpcClient.stream` does; `data_invalid` for a compressed chunk that cannot be read, where it must be.
 */
export function sendFrames(
  client: RpcClient,
  method: StreamingMethod<typeof FrameSchema, typeof StreamReceiptSchema>,
  frames: AsyncIterable<Frame>,
  { acceptanceWaitMs = ACCEPTANCE_WAIT_MS, ...options }: SendOptions = {},
): Promise<MessageShape<typeof StreamReceiptSchema>> {
  const acceptance = new Acceptance(acceptanceWaitMs, ACCEPTED.get(client));
  return client.stream(method, new RecodedFrames(frames, acceptance), {
    ...options,
    onMetadata: (metadata) => {
      ACCEPTED.set(client, acceptance.told(metadata.get(ACCEPT_COMPRESSION).map(String)));
    },
  });
}

/** What the program behind a client said at its last call: in a chain of many runs nobody waits to hear it again. */
const ACCEPTED = new WeakMap<RpcClient, boolean>();

/** What is known of the receiver. */
class Acceptance {
  readonly #waitMs: number;
  #isKnown = false;
  #isAccepted = false;
  #tell = (): void => undefined;

  /** @param known what it said before, if it did. */
  constructor(waitMs: number, known: boolean | undefined) {
    this.#waitMs = waitMs;
    this.#isKnown = known !== undefined;
    this.#isAccepted = known ?? false;
  }

  /** Whether these names say that it takes compressed chunks. */
  told(names: readonly string[]): boolean {
    const all = names.flatMap((list) => list.split(",")).map((name) => name.trim());
    this.#isKnown = true;
    this.#isAccepted = all.includes(DEFLATE_RAW);
    this.#tell();
    return this.#isAccepted;
  }

  /** Whether it takes compressed chunks; waits a little, once, for it to say so. */
  async isAccepted(): Promise<boolean> {
    if (this.#isKnown) return this.#isAccepted;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#waitMs);
      this.#tell = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    // What it says later still counts.
    this.#isKnown = true;
    return this.#isAccepted;
  }
}

/** Not a generator: leaving one that has not begun would not leave its source. */
class RecodedFrames implements AsyncIterable<Frame> {
  readonly #frames: AsyncIterable<Frame>;
  readonly #acceptance: Acceptance;
  readonly #recoder = new FrameRecoder(PAYING_RATIO.hop);

  constructor(frames: AsyncIterable<Frame>, acceptance: Acceptance) {
    this.#frames = frames;
    this.#acceptance = acceptance;
  }

  [Symbol.asyncIterator](): AsyncIterator<Frame> {
    const iterator = this.#frames[Symbol.asyncIterator]();
    return {
      next: async () => {
        const next = await iterator.next();
        return next.done === true ? next : { done: false, value: await this.#recode(next.value) };
      },
      return: async () => (await iterator.return?.()) ?? { done: true, value: undefined },
    };
  }

  async #recode(frame: Frame): Promise<Frame> {
    const mayCompress = frame.body.case === "chunk" && (await this.#acceptance.isAccepted());
    return this.#recoder.recode(frame, mayCompress);
  }
}

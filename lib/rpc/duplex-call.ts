/** The caller's side of a call whose two directions are independent. */
import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";
import { toAppError, type AppError } from "../errors.ts";
import { fromGrpcStatus } from "./status.ts";

/** A call under way. It is over when its responses end; whoever opened it reads them, or cancels. */
export class DuplexCall<Input, Output> {
  /**
   * What the other side sends, pulled; for one reader. Throws what the other side threw; the signal's reason; `job_failed` when
   * the other side goes away.
   */
  readonly responses: AsyncIterable<Output>;
  readonly #stream: ClientDuplexStream<Input, Output>;
  readonly #peer: string;
  /** Writes that wait: grpc-js forgets those that a call leaves behind. */
  readonly #writing = new Set<() => void>();
  #isOver = false;
  #abortedBy: AppError | undefined;

  constructor(stream: ClientDuplexStream<Input, Output>, peer: string, signal?: AbortSignal) {
    this.#stream = stream;
    this.#peer = peer;
    this.responses = this.#read();
    // The reader hears of it; until there is one, Node would take it for unhandled.
    stream.on("error", () => undefined);
    const onAbort = (): void => {
      this.#abortedBy = toAppError(signal?.reason);
      stream.cancel();
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    // Every call ends with exactly one status.
    stream.once("status", () => {
      signal?.removeEventListener("abort", onAbort);
      this.#isOver = true;
      for (const resolve of this.#writing) resolve();
      this.#writing.clear();
    });
    if (signal?.aborted) onAbort();
  }

  /** Sends a message. Resolves when the transport has taken it, or when the call is over: then the responses say why. */
  write(message: Input): Promise<void> {
    if (this.#isOver) return Promise.resolve();
    return new Promise((resolve) => {
      this.#writing.add(resolve);
      this.#stream.write(message, () => {
        this.#writing.delete(resolve);
        resolve();
      });
    });
  }

  /** No more messages from here. */
  end(): void {
    this.#stream.end();
  }

  /** Ends the call at once; after its end this changes nothing. */
  cancel(): void {
    this.#stream.cancel();
  }

  async *#read(): AsyncGenerator<Output> {
    try {
      for await (const message of this.#stream) yield message as Output;
    } catch (error) {
      throw this.#abortedBy ?? fromGrpcStatus(error as ServiceError, this.#peer);
    }
  }
}

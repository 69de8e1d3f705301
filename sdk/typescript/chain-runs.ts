/**
 * The runs of a persistent microservice: each `Process` call belongs to the run that its first frame names by request and
 * attempt. Of a third party's first element several calls are of one run, and meet here. Nothing is kept of a run that is over.
 */
import { AppError } from "../../lib/errors.ts";
import { withFirst } from "../../lib/rpc/first-frame.ts";
import type { StreamReceipt } from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { CallContext } from "../../lib/rpc/service.ts";
import { ChainRun, type ChainRunOptions } from "./chain-run.ts";

/** See the file comment. */
export class ChainRuns {
  readonly #options: ChainRunOptions;
  readonly #most: number;
  readonly #runs = new Map<string, ChainRun>();
  readonly #onIdle = new Set<() => void>();

  /** @param most runs at once; the chain's sidecar brings no more. */
  constructor(options: ChainRunOptions, most: number) {
    this.#options = options;
    this.#most = most;
  }

  /** How many run now. */
  get count(): number {
    return this.#runs.size;
  }

  /**
   * Takes one stream; answers when the rest of the chain has taken the result.
   *
   * @throws AppError as `ChainRun.take`; `rate_limited` for a run beyond the limit.
   */
  async take(frames: AsyncIterable<Frame>, call: CallContext): Promise<StreamReceipt> {
    const [first, all] = await withFirst(frames);
    if (first === undefined) throw new AppError("job_failed", "A stream came in without a frame.");
    return this.#runOf(`${first.requestId}/${String(first.attempt)}`).take(all, call);
  }

  /** Resolves when no run is under way, or when the limit has passed. */
  async idle(limitMs: number): Promise<void> {
    if (this.#runs.size === 0) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#onIdle.delete(done);
        resolve();
      };
      const timer = setTimeout(done, limitMs);
      this.#onIdle.add(done);
    });
  }

  /** The process ends: so do the runs. */
  stop(): void {
    for (const run of this.#runs.values()) run.stop();
  }

  #runOf(key: string): ChainRun {
    const known = this.#runs.get(key);
    if (known !== undefined) return known;
    // One that has failed the sidecar counts no more; here it may take a moment to end.
    const running = [...this.#runs.values()].filter((run) => !run.hasFailed).length;
    if (running >= this.#most) {
      const { name } = this.#options.definition;
      throw new AppError("rate_limited", `${name} serves ${this.#most} runs at once (DYNAMOS_CHAIN_CONCURRENCY).`);
    }
    const run = new ChainRun(this.#options);
    this.#runs.set(key, run);
    void run.finished.then(() => {
      this.#runs.delete(key);
      if (this.#runs.size === 0) for (const done of [...this.#onIdle]) done();
    });
    return run;
  }
}

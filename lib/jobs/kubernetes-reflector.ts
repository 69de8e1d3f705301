/**
 * A list that is kept up to date by a watch (Kubernetes API concepts, "Efficient detection of changes").
 *
 * It lists once, then watches from the list's version on. A watch that ends, breaks or falls silent goes on from the last
 * version seen (bookmarks keep that fresh); only when the server has forgotten that version (410 Gone) is everything listed
 * again. Between failed attempts it pauses, longer each time, with jitter.
 */
import type { Clock } from "../clock.ts";
import { type AppError, toAppError } from "../errors.ts";
import { ApiRefusal, type KubernetesApi } from "./kubernetes-api.ts";
import type { KubernetesObject } from "./kubernetes-objects.ts";

/** What to watch, and whom to tell. */
export interface ReflectorOptions<Item extends KubernetesObject> {
  readonly api: Pick<KubernetesApi, "call" | "lines">;
  /** Of the collection, such as `/api/v1/namespaces/vu/pods`. */
  readonly path: string;
  readonly selector: Readonly<Record<string, string>>;
  readonly clock: Clock;
  /** Everything there is now; what is not among it is gone. `askedAt` is what `mark` answered before it was asked for. */
  readonly onList: (items: readonly Item[], askedAt: number) => void;
  readonly onChange: (item: Item, isGone: boolean) => void;
  /** A number that grows with everything that is learned elsewhere. */
  readonly mark: () => number;
  /** Hears when the server has not answered for several attempts. */
  readonly report: (error: AppError) => void;
  /** Between 0 and 1; for the jitter. */
  readonly random?: () => number;
}

/** The server ends each watch after about this time. */
const WATCH_S = 240;
const SHORTEST_WATCH_MS = 1_000;
const FIRST_PAUSE_MS = 200;
const MAX_PAUSE_MS = 10_000;
/** Failures in a row after which somebody should know. */
const REPORTED_FAILURES = 5;

interface WatchEvent<Item> {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR";
  readonly object: Item & { readonly code?: number; readonly message?: string };
}

/** See the file comment. */
export class Reflector<Item extends KubernetesObject> {
  readonly #options: ReflectorOptions<Item>;
  readonly #closing = new AbortController();
  #version: string | undefined;
  #failures = 0;
  #running: Promise<void> = Promise.resolve();

  private constructor(options: ReflectorOptions<Item>) {
    this.#options = options;
  }

  /** Lists, and goes on watching. Fails as the list does. */
  static async open<Item extends KubernetesObject>(options: ReflectorOptions<Item>): Promise<Reflector<Item>> {
    const reflector = new Reflector(options);
    await reflector.#list();
    reflector.#running = reflector.#run();
    return reflector;
  }

  /** Ends it. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        if (this.#version === undefined) await this.#list();
        const startedMs = this.#options.clock.now();
        await this.#watch();
        // A server that ends each watch at once would keep both sides busy.
        if (this.#options.clock.now() - startedMs < SHORTEST_WATCH_MS) await this.#pause(1);
      } catch (error) {
        if (signal.aborted) return;
        await this.#afterFailure(toAppError(error));
      }
    }
  }

  async #afterFailure(error: AppError): Promise<void> {
    if (isGone(error)) this.#version = undefined;
    this.#failures++;
    if (this.#failures === REPORTED_FAILURES) this.#options.report(error);
    if (this.#failures === 1 && isGone(error)) return;
    await this.#pause(this.#failures);
  }

  async #pause(failures: number): Promise<void> {
    const { clock, random = Math.random } = this.#options;
    const pauseMs = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (failures - 1)) * (0.5 + random() / 2);
    // Closing: the loop ends.
    await clock.sleep(pauseMs, this.#closing.signal).catch(() => undefined);
  }

  async #list(): Promise<void> {
    const { api, path, selector, onList, mark } = this.#options;
    const askedAt = mark();
    const { signal } = this.#closing;
    const list = await api.call<{ items: Item[]; metadata: { resourceVersion: string } }>({
      method: "GET",
      path,
      query: selector,
      signal,
    });
    this.#version = list.metadata.resourceVersion;
    onList(list.items, askedAt);
  }

  async #watch(): Promise<void> {
    const { api, path, selector, onChange } = this.#options;
    const query = {
      ...selector,
      watch: true,
      allowWatchBookmarks: true,
      resourceVersion: this.#version ?? "",
      timeoutSeconds: WATCH_S,
    };
    for await (const line of api.lines({ method: "GET", path, query, signal: this.#closing.signal })) {
      const { type, object } = JSON.parse(line) as WatchEvent<Item>;
      if (type === "ERROR") {
        throw new ApiRefusal(object.code ?? 500, "unavailable", `A watch of ${path} failed: ${object.message ?? "?"}`);
      }
      this.#failures = 0;
      this.#version = object.metadata.resourceVersion;
      if (type !== "BOOKMARK") onChange(object, type === "DELETED");
    }
  }
}

function isGone(error: AppError): boolean {
  return error instanceof ApiRefusal && error.httpStatus === 410;
}

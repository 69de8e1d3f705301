/** Another process with the same knowledge store: what tests tell it, and what it tells back. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { type StoreChange } from "../../lib/knowledge/knowledge-store.ts";
import { eventually } from "./eventually.ts";

/** What the process can be told to do. It answers each with `done` or `failed`. */
export type StoreProcessCommand =
  /** Adds one to the number under `key`, `times` times, by compare-and-swap. */
  | { readonly type: "increment"; readonly key: string; readonly times: number }
  /** Writes 1, 2, 3… to `first` and then `second`: at any moment `first` is equal, or one ahead. */
  | { readonly type: "alternate"; readonly first: string; readonly second: string; readonly times: number }
  /** Grants itself a lease, renewed automatically, and writes the keys under it. */
  | { readonly type: "hold"; readonly keys: readonly string[]; readonly ttlMs: number }
  /** Sends all changes from now on. */
  | { readonly type: "watch"; readonly prefix: string; readonly fromRevision: number };

/** What it says. */
export type StoreProcessMessage =
  | { readonly type: "ready" }
  | { readonly type: "done" }
  | { readonly type: "failed"; readonly detail: string }
  | { readonly type: "lost" }
  | { readonly type: "change"; readonly change: StoreChange };

/** The running process. */
export class StoreProcess {
  /** Everything it has said. */
  readonly messages: StoreProcessMessage[] = [];
  readonly #child: ChildProcess;

  constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (message: StoreProcessMessage) => this.messages.push(message));
  }

  /** Tells it to do something, and waits until it is done. One command at a time. */
  async tell(command: StoreProcessCommand): Promise<void> {
    const heard = this.messages.length;
    this.#child.send(command);
    const answer = await eventually(
      () => this.messages.slice(heard).find(({ type }) => type === "done" || type === "failed"),
      { timeoutMs: 60_000, describe: `the process to have done "${command.type}"` },
    );
    if (answer.type === "failed") throw new Error(`${command.type} failed: ${answer.detail}`);
  }

  /** The changes it has been sent. */
  get changes(): readonly StoreChange[] {
    return this.messages.flatMap((message) => (message.type === "change" ? [message.change] : []));
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Kills it, and resolves when it is gone. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }
}

/** Starts one; resolves when it has opened the store at `url`. Kill it in the end. */
export async function startStoreProcess(url: string): Promise<StoreProcess> {
  const program = fileURLToPath(new URL("knowledge-store-program.js", import.meta.url));
  const child = new StoreProcess(fork(program, [url], { execArgv: [] }));
  try {
    await eventually(() => child.messages.length > 0, { timeoutMs: 20_000, describe: "the process to open the store" });
    return child;
  } catch (error) {
    await child.kill();
    throw error;
  }
}

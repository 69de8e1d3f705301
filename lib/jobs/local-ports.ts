/**
 * Blocks of consecutive ports for local chains.
 *
 * They are taken below the range from which systems give outgoing connections their ports (32768 and up on Linux,
 * 49152 and up by RFC 6335), so that no connection takes one meanwhile. A port is ours when we made its entry in a folder
 * that all agents of the exchange share, and could bind it. The entry is a hard link to a file that names its agent:
 * made in one step, never half written, and void as soon as that agent is dead. Programs that know nothing of the folder may still take it
 * before the container does: the container then fails with EADDRINUSE, and the job with a retryable `job_start_failed`.
 */
import { randomInt, randomUUID } from "node:crypto";
import { link, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { AppError } from "../errors.ts";
import { isAlive, type ProcessIdentity } from "./local-processes.ts";

/** First and last port of the range, both included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** 5000 ports: about 1000 chains at once, and no common server among them. */
export const DEFAULT_PORT_RANGE: PortRange = { first: 20_000, last: 24_999 };

/** Names of the files that name an agent. */
const OWNER_PREFIX = "agent-";

/** Consecutive ports that nobody of this exchange uses until they are released. */
export interface PortBlock {
  readonly first: number;
  release(): Promise<void>;
}

/** Gives out ports on behalf of one agent process. */
export class PortReservations {
  readonly #folder: string;
  readonly #range: PortRange;
  readonly #ownerFile: string;

  private constructor(folder: string, range: PortRange, ownerFile: string) {
    this.#folder = folder;
    this.#range = range;
    this.#ownerFile = ownerFile;
  }

  /** Opens the folder that all agents of the exchange share, and tidies up behind dead ones. */
  static async open(folder: string, range: PortRange, owner: ProcessIdentity): Promise<PortReservations> {
    await mkdir(folder, { recursive: true });
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      if (name.startsWith(OWNER_PREFIX) && !(await isHeld(await readIfThere(path)))) await rm(path, { force: true });
    }
    const ownerFile = join(folder, `${OWNER_PREFIX}${randomUUID()}`);
    const unfinished = join(folder, `.${randomUUID()}`);
    await writeFile(unfinished, JSON.stringify(owner));
    await rename(unfinished, ownerFile);
    return new PortReservations(folder, range, ownerFile);
  }

  /** After the last block was released. */
  async close(): Promise<void> {
    await rm(this.#ownerFile, { force: true });
  }

  /** Reserves `count` consecutive ports. None left: `job_start_failed`. */
  async reserve(count: number): Promise<PortBlock> {
    const { first, last } = this.#range;
    const size = last - first + 1;
    // A random beginning spreads the agents, and exchanges that share no folder, over the range.
    const offset = randomInt(Math.max(1, size));
    for (let step = 0; step < size;) {
      const begin = first + ((offset + step) % size);
      const taken = begin + count - 1 > last ? 0 : await this.#tryBlock(begin, count);
      if (taken === "all") return { first: begin, release: () => this.#release(begin, count) };
      step += taken + 1;
    }
    throw new AppError(
      "job_start_failed",
      `No ${count} consecutive free ports between ${first} and ${last}: wait for chains to end, or widen portRange.`,
    );
  }

  /** Takes the whole block, or nothing: then the number of the first ports that would have been free. */
  async #tryBlock(begin: number, count: number): Promise<"all" | number> {
    for (let index = 0; index < count; index++) {
      const port = begin + index;
      const reserved = await this.#reservePort(port);
      if (reserved && (await canBind(port))) continue;
      await this.#release(begin, reserved ? index + 1 : index);
      return index;
    }
    return "all";
  }

  async #reservePort(port: number): Promise<boolean> {
    const path = this.#path(port);
    if (await linkIfFree(this.#ownerFile, path)) return true;
    return (await this.#removeStale(path)) && (await linkIfFree(this.#ownerFile, path));
  }

  /**
   * Takes a dead agent's reservation away. Two agents may find the same one: renaming gives it to one of them, and who
   * got a file that was renewed meanwhile puts it back.
   */
  async #removeStale(path: string): Promise<boolean> {
    const found = await readIfThere(path);
    if (await isHeld(found)) return false;
    if (found === undefined) return true;
    const aside = `${path}.stale-${randomUUID()}`;
    try {
      await rename(path, aside);
      const isTheOneFound = (await readIfThere(aside)) === found;
      if (!isTheOneFound) await link(aside, path);
      return isTheOneFound;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "ENOENT" || code === "EEXIST") return false;
      throw error;
    } finally {
      await rm(aside, { force: true });
    }
  }

  async #release(begin: number, count: number): Promise<void> {
    for (let index = 0; index < count; index++) await rm(this.#path(begin + index), { force: true });
  }

  #path(port: number): string {
    return join(this.#folder, String(port));
  }
}

/** Whether the agent that a reservation names lives. */
async function isHeld(reservation: string | undefined): Promise<boolean> {
  return reservation !== undefined && isAlive(JSON.parse(reservation) as ProcessIdentity);
}

async function linkIfFree(existing: string, path: string): Promise<boolean> {
  try {
    await link(existing, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function canBind(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/**
 * Names of worlds (docs/decisions/0007): they say which grant a world is of, and of which contents, so that the agent and sql-query
 * can tell which are outdated without a look inside, where nothing but what is granted may stand.
 */
import { createHash } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { removeUnheld } from "./held-files.ts";

/** A data set's content. */
export interface Content {
  readonly name: string;
  readonly contentHash: string;
}

/** Most worlds that are kept, and most bytes of them (`DYNAMOS_WORLDS_MAX_BYTES`), where nothing else is said. */
export const DEFAULT_WORLDS = 32;
export const DEFAULT_WORLDS_BYTES = 10_000_000_000;

const WORLD = /^world-[0-9a-f]{32}((?:-[0-9a-f]{16})*)\.(?:sqlite|duckdb)$/;
/** File names have 255 characters; a world of more data sets has no tags, and goes with the next change of any. */
const MAX_TAGS = 10;

/**
 * The file name of a world.
 *
 * @param grant what is granted of these contents; values with the same JSON are the same.
 * @param engine whose file it is; its name's extension
 */
export function worldFileName(
  contents: readonly Content[],
  grant: unknown,
  engine: "sqlite" | "duckdb" = "sqlite",
): string {
  const hash = shortHash(JSON.stringify([contents.map(({ contentHash }) => contentHash), grant]), 32);
  const tags =
    contents.length > MAX_TAGS ? [] : contents.map((content) => `-${dataSetTag(content)}${hashTag(content)}`);
  return `world-${hash}${tags.join("")}.${engine}`;
}

/** Whether a file of this name is a world. */
export function isWorldFileName(name: string): boolean {
  return WORLD.test(name);
}

/**
 * Removes the worlds of other contents of a data set than its present one: they may have rows that the steward took out. Those that
 * a query is using stay until the next call.
 */
export async function removeOutdatedWorlds(folder: string, present: Content): Promise<void> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    // No query has been asked yet.
    if (error.code !== "ENOENT") throw error;
    return [];
  });
  for (const name of names) if (isOutdated(name, present)) removeUnheld(join(folder, name));
}

function isOutdated(name: string, present: Content): boolean {
  const match = WORLD.exec(name);
  if (match === null) return false;
  const tags = (match[1] ?? "").split("-").slice(1);
  if (tags.length === 0) return true;
  return tags.some((tag) => tag.startsWith(dataSetTag(present)) && !tag.endsWith(hashTag(present)));
}

function dataSetTag({ name }: Content): string {
  return shortHash(name, 8);
}

function hashTag({ contentHash }: Content): string {
  return shortHash(contentHash, 8);
}

function shortHash(text: string, length: number): string {
  return createHash("sha256").update(text).digest("hex").slice(0, length);
}

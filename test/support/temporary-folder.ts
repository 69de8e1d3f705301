/** Folders for tests. All of one process lie in one folder, which goes when the process ends. */
import { mkdtempSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folderOfThisProcess = mkdtempSync(join(tmpdir(), "dynamos-test-"));
process.once("exit", () => rmSync(folderOfThisProcess, { recursive: true, force: true, maxRetries: 5 }));

/**
 * Makes an empty folder and resolves with its absolute path.
 *
 * It is removed when the process ends (node:test runs each file in a process of its own), not when the test ends:
 * node:test runs `after` hooks in the order of registration, so a hook of ours would pull the folder from under
 * whatever the test opened in it later.
 */
export async function temporaryFolder(): Promise<string> {
  return mkdtemp(join(folderOfThisProcess, "folder-"));
}

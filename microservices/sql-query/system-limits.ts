/**
 * The operating system's own limits on a query's process, behind its watchdog and its parent: set by a shell, which then becomes
 * the process. Which there are depends on the system:
 *
 * - Linux: mapped memory (`-d`: an allocation fails before it can hurt), size of a file, processor time, no core dumps.
 * - Other systems with a POSIX shell: all but mapped memory, which they do not count.
 * - Windows: none. There the watchdog and the parent are alone.
 */
import type { QueryLimits } from "./query-protocol.ts";

/** Writable memory that Node has mapped beside what it uses: thread stacks and reserves. */
const MAPPED_UNUSED_BYTES = 192 * 1024 * 1024;

/**
 * The command that runs another under the limits which its system has.
 *
 * @param queries how many queries the process may serve: processor time adds up, and the watchdog counts that of each.
 */
export function limitedCommand(
  platform: NodeJS.Platform,
  limits: QueryLimits,
  queries: number,
  command: readonly string[],
): readonly string[] {
  if (platform === "win32") return command;
  return ["/bin/sh", "-c", `${ulimits(platform, limits, queries)}; exec "$@"`, "sh", ...command];
}

function ulimits(platform: NodeJS.Platform, limits: QueryLimits, queries: number): string {
  const kibibytes = Math.ceil((limits.memoryBytes + MAPPED_UNUSED_BYTES) / 1024);
  // In blocks of 512 bytes (POSIX); one more, so that the watchdog's sum can see the limit passed.
  const blocks = Math.ceil(limits.temporaryBytes / 512) + 1;
  const seconds = queries * processorSeconds(limits.timeMs);
  const memory = platform === "linux" ? [`ulimit -d ${String(kibibytes)}`] : [];
  return ["ulimit -c 0", ...memory, `ulimit -f ${String(blocks)}`, `ulimit -t ${String(seconds)}`].join("; ");
}

/** Most processor time of a query, in seconds. Two processors' worth: Node's own threads work too. */
export function processorSeconds(timeMs: number): number {
  return Math.ceil((timeMs / 1000) * 2) + 10;
}

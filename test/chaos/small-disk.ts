/** A small disk of its own under a folder (tmpfs), which can be filled up. Needs root on Linux; where that lacks, it says why. */
import { spawnSync } from "node:child_process";
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";

const MEGABYTES = 192;
const CHUNK = Buffer.alloc(1024 * 1024);
const FILLER = "filler-of-the-chaos-harness";

/** Why no disk can be mounted here; undefined where it can. */
export function noSmallDisk(): string | undefined {
  if (process.platform !== "linux") return "disks are mounted on Linux only";
  if (process.getuid?.() !== 0) return "mounting a disk needs root";
  // In a mount namespace of its own, so that trying leaves nothing.
  const tried = spawnSync("unshare", ["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
  return tried.status === 0 ? undefined : "this machine does not let its root mount";
}

/** See the file comment. */
export class SmallDisk {
  readonly #folder: string;
  readonly #unmountAtExit = (): void => void spawnSync("umount", ["-l", this.#folder]);

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Mounts one over the folder, which is made. */
  static async mount(folder: string): Promise<SmallDisk> {
    await mkdir(folder, { recursive: true });
    const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${String(MEGABYTES)}m`, "tmpfs", folder]);
    if (status !== 0) throw new Error(`A disk could not be mounted over ${folder}: ${String(stderr)}`);
    const disk = new SmallDisk(folder);
    process.once("exit", disk.#unmountAtExit);
    return disk;
  }

  /** Fills it to the last byte. */
  async fill(): Promise<void> {
    const file = await open(join(this.#folder, FILLER), "a");
    try {
      for (let size = CHUNK.length; size > 0;) {
        const isFull = await file.write(CHUNK, 0, size).then(({ bytesWritten }) => bytesWritten < size, isNoSpace);
        if (isFull) size = Math.floor(size / 2);
      }
    } finally {
      await file.close();
    }
  }

  /** Takes away what {@link fill} wrote. */
  async free(): Promise<void> {
    await rm(join(this.#folder, FILLER), { force: true });
  }

  unmount(): void {
    process.off("exit", this.#unmountAtExit);
    this.#unmountAtExit();
  }
}

function isNoSpace(error: NodeJS.ErrnoException): boolean {
  if (error.code === "ENOSPC") return true;
  throw error;
}

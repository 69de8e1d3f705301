/** A messaging sidecar as a process of its own, which tests stop, kill and start again at the same address. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { baseEnvironment } from "../../lib/config/env.ts";
import { packageRoot } from "../../lib/package-root.ts";

/** A sidecar. */
export interface MessagingSidecar {
  /** What `openMessageBus` opens the bus with. */
  readonly url: string;
  readonly pid: number;
  /** All that it has logged. */
  log(): string;
  /** As the death of its parent does. */
  closeInput(): void;
  /** Its exit code (null after a signal), when it has ended. */
  readonly ended: Promise<number | null>;
  /** Sends the signal (default SIGTERM), and resolves as {@link ended} does. */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

/** Starts one on a bus, and resolves when it is ready; fails with its log when it ends before. */
export async function startMessagingSidecar(
  bus: string,
  listen = "127.0.0.1:0",
  settings: Readonly<Record<string, string>> = {},
): Promise<MessagingSidecar> {
  const child: ChildProcess = spawn(process.execPath, [join(packageRoot, "dist/sidecar/messaging-main.js")], {
    env: {
      ...baseEnvironment(),
      DYNAMOS_BUS: bus,
      DYNAMOS_SIDECAR_LISTEN: listen,
      DYNAMOS_EXIT_WITH_PARENT: "true",
      ...settings,
    },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = once(child, "exit").then(([code]) => code as number | null);
  let log = "";
  const url = await new Promise<string>((resolve, reject) => {
    void ended.then(() => reject(new Error(`The messaging sidecar ended before it was ready:\n${log}`)));
    createInterface({ input: child.stdout! }).on("line", (line) => {
      log += `${line}\n`;
      if (line.includes("is ready")) resolve((JSON.parse(line) as { url: string }).url);
    });
  });
  return {
    url,
    pid: child.pid!,
    log: () => log,
    closeInput: () => void child.stdin?.end(),
    ended,
    end: (signal = "SIGTERM") => {
      child.kill(signal);
      return ended;
    },
  };
}

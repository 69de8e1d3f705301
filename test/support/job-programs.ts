/** Small JavaScript programs for containers of test jobs. They wait for each other, never for time. */

/** Does nothing until it is killed. */
export const FOREVER = "setInterval(() => {}, 1000);";

/** Does its work at once. */
export const DONE = "process.exit(0);";

/** A microservice that runs a program's text, then tells {@link sidecarAwaiting} that it is done, and ends. */
export function tellingSidecar(program: string): string {
  return `
    ${program}
    const { connect } = await import("node:net");
    const tell = () => connect(Number(process.env.SIDECAR_PORT), "127.0.0.1")
      .on("error", () => setTimeout(tell, 20))
      .on("data", () => process.exit(0));
    tell();`;
}

/** A sidecar that runs a program's text, and ends when so many microservices have told it that they are done. */
export function sidecarAwaiting(count: number, program = ""): string {
  return `
    ${program}
    const { createServer } = await import("node:net");
    process.on("SIGTERM", () => {});
    let left = ${String(count)};
    createServer((socket) => {
      socket.on("error", () => {});
      socket.end("thanks", () => --left === 0 && setTimeout(() => process.exit(0), 50));
    }).listen(Number(process.env.SIDECAR_PORT), "127.0.0.1");`;
}

/** The message bus contract for every adapter that this machine can run. */
import { join } from "node:path";
import { openMessageBus } from "../../lib/bus/open.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { testMessageBusContract } from "./message-bus.contract.ts";

testMessageBusContract("embedded", async () => {
  const url = `embedded:${join(await temporaryFolder(), "bus", "bus.sqlite")}`;
  return { url, open: () => openMessageBus(url), stop: async () => undefined };
});

/** Why a wait, or what somebody listened for, is not wanted any more, where nobody asks why. */
import { AppError } from "./errors.ts";

/**
 * The reason to abort with where nobody looks at it. Without a reason Node.js makes an error of its own each time, with the stack
 * of everything that waits: several of them per request cost as much as a message on the bus.
 */
export const OVER: AppError = new AppError("cancelled", "What this was for is over.");

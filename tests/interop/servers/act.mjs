// What a task says; prints what a test wants to know. `signal`: aborts when the call is cancelled.
import { setTimeout as sleep } from "node:timers/promises";

export const ANSWER = { value: "yes", confidence: 0.93, why: "so" };

export async function act(task, signal) {
  const [word, seconds] = (task || "ok").split(" ");
  console.log("ACT", word);
  if (word === "slow") {
    try {
      await sleep(Number(seconds) * 1000, undefined, { signal });
    } catch (error) {
      console.log("CANCELLED");
      throw error;
    }
  }
  if (word === "fail") throw new Error("disk full");
}

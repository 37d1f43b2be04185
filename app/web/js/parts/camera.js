// A picture from the camera, where the browser lets a page have one.

import { actionButton, announce, h, put } from "../dom.js";
import { showProblem } from "../problem.js";

const WHY = {
  NotAllowedError: "The browser did not allow it; allow the camera for this page and try again.",
  NotFoundError: "There is no camera.",
  NotReadableError: "Another program uses the camera.",
};

/**
 * A button that opens the camera, and the place where its picture is seen.
 * @param {(file: File) => void} take
 * @returns {{button: Element, element: Element}|null} null where the browser gives no camera: that needs https or localhost.
 */
export function camera(take, signal) {
  if (!navigator.mediaDevices?.getUserMedia) return null;
  const element = h("div", { class: "camera" });
  let stream = null;

  function stop() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    put(element);
  }

  async function start() {
    stop();
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (signal.aborted) return stop();
    const video = h("video", { playsinline: true, muted: true, "aria-label": "What the camera sees" });
    video.muted = true;
    video.srcObject = stream;
    await video.play();
    const shoot = h("button", { type: "button", class: "primary", onclick: () => {
      const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => {
        take(new File([blob], "camera.png", { type: "image/png" }));
        stop();
      }, "image/png");
    } }, "Take the picture");
    put(element, video, h("div", { class: "buttons" }, shoot, h("button", { type: "button", onclick: stop }, "Close the camera")));
    shoot.focus();
    announce("The camera is on");
  }

  signal.addEventListener("abort", stop);
  const button = actionButton("Use the camera", start, { fail: (error) => {
    stop();
    showProblem(element, Object.assign(new Error(), { problem: { title: "The camera cannot be used", detail: WHY[error.name] ?? error.message } }));
  } });
  return { button, element };
}

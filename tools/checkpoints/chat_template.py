"""The chat template of a checkpoint as jinja, for those who ask through a tokenizer: transformers, lmdeploy, vLLM.

Without it they would put a question bare, not as the turn of a conversation that the model was trained on, and none of
them says so.
"""

from __future__ import annotations

import json

from internvl_chat.model.conversation import Template

VIDEO_TOKEN = "<video>"


def chat_template(template: Template, image_token: str) -> str:
    """Return a chat template as the jinja that transformers renders.

    Messages are those of transformers. The system message is the template's own unless the first message is one. An
    image is its token and a newline, as the placeholder of a single image is in training data.

    Args:
        template: of the conversation.
        image_token: stands for an image until a client puts the tokens of its tiles there: `<IMG_CONTEXT>` in the
            `-hf` layout, `<image>` in the published one.
    """
    end, last_end = template.end_token + template.separator, template.stop_token + template.separator
    opening = template.assistant_prefix + template.answer_prefix
    prefixes = {"system": template.system_prefix, "user": template.user_prefix, "assistant": opening}
    first, closing, last_closing, image, video, roles, answer = (
        json.dumps(text, ensure_ascii=False)
        for text in (
            template.system_prefix + template.system_message + end,
            end,
            last_end,
            f"{image_token}\n",
            f"{VIDEO_TOKEN}\n",
            prefixes,
            opening,
        )
    )
    if last_end != end:
        closing = f"{last_closing} if loop.last and message['role'] == 'assistant' else {closing}"
    return "".join(
        (
            "{% if messages[0]['role'] != 'system' %}{{ " + first + " }}{% endif %}",
            "{% for message in messages %}{{ " + roles + "[message['role']] }}",
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}",
            "{% for part in message['content'] %}",
            "{% if part['type'] == 'image' %}{{ " + image + " }}",
            "{% elif part['type'] == 'video' %}{{ " + video + " }}",
            "{% else %}{{ part['text'] }}{% endif %}",
            "{% endfor %}{% endif %}{{ " + closing + " }}{% endfor %}",
            "{% if add_generation_prompt %}{{ " + answer + " }}{% endif %}",
        )
    )
